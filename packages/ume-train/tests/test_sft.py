"""SFT: chunks, resumption, adapters, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PILImage
from sentence_transformers import SentenceTransformer

import ume_core
from ume_core import Item, Text
from ume_core.errors import InvalidOption
from ume_r1.cli import main
from ume_train import sft
from ume_train.commands.stage import open_source
from ume_train.config import read_config
from ume_train.data.pairs import PairBatch
from ume_train.logs import read_log
from ume_train.sft import SFT


def make(
    tmp: Path, drawn: Path, name: str, *changes: str, steps: int = 4, records: str = "few"
) -> SFT:
    """A run on the drawn data: two batches a pass."""
    config: Any = read_config(
        "sft", "tiny",
        [
            "data.drawn=0",
            f"data.files=[{{path: {drawn / records}.json, media: {drawn / 'media'}}}]",
            f"run.steps={steps}", "run.save_every=2", "run.save_dtype=float32", "batch.pairs=6",
            "model.precision=float32", "data.order=shuffled", "run.device=cpu", "batch.chunk=6",
            "evaluate.every=0",
            *changes,
        ],
    )  # fmt: skip
    out = tmp / name
    return SFT(config, out, open_source("sft", config, out), steps)


def weights(run: SFT) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.trained.model.state_dict().items()}


def losses(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> SFT:
    """Four steps without interruption."""
    run = make(tmp_path_factory.mktemp("whole"), drawn, "whole")
    assert run.train()
    return run


def test_a_run_in_parts_ends_where_a_whole_one_does(
    tmp_path: Path, drawn: Path, whole: SFT
) -> None:
    # Inside the first pass over the data, at its end, inside the second.
    for until in (1, 2, 3, 4):
        run = make(tmp_path, drawn, "parts")
        run.train(until)
    assert losses(tmp_path / "parts") == losses(whole.out)
    for name, weight in weights(run).items():
        assert torch.equal(weight, weights(whole)[name]), name
    with pytest.raises(InvalidOption, match=r"another configuration \(optimizer.lr\)"):
        make(tmp_path, drawn, "parts", "optimizer.lr=1")


def test_gradients_of_chunks_are_those_of_the_whole(
    tmp_path: Path, drawn: Path, whole: SFT
) -> None:
    run = make(tmp_path, drawn, "chunks", "batch.chunk=2")
    run.train()
    for ours, theirs in zip(losses(run.out), losses(whole.out), strict=True):
        for name in ("disc", "gen", "align", "ce", "loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=1e-5), name


def test_activations_computed_again_give_the_same_gradients(
    tmp_path: Path, drawn: Path, whole: SFT
) -> None:
    run = make(tmp_path, drawn, "again", "model.gradient_checkpointing=true", steps=4)
    run.train(2)
    for ours, theirs in zip(losses(run.out), losses(whole.out)[:2], strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_the_model_loads_in_the_engine_and_in_transformers(whole: SFT) -> None:
    model = whole.out / "model"
    plain = transformers.Qwen2VLForConditionalGeneration.from_pretrained(model)
    state = plain.state_dict()
    for name, weight in weights(whole).items():
        assert torch.equal(state[name], weight), name
    engine = ume_core.load(str(model), dtype="float32")
    assert engine.signature("gen").aligned
    item = Item((Text("red circle left"),))
    result = engine.embed([item], mode="both", max_new_tokens=32)
    with torch.no_grad():
        rows = whole.render([ume_example(item)], answers=False)
        whole.trained.model.eval()
        disc = whole.policy(rows).disc[0]
    unit = torch.nn.functional.normalize(disc, dim=0).numpy()
    assert np.abs(unit - result.vectors("disc")[0]).max() < 1e-5


def test_the_model_loads_in_sentence_transformers(whole: SFT, tmp_path: Path) -> None:
    model, native = whole.out / "model", tmp_path / "native"
    assert main(["export", str(model), str(native), "--format", "sentence-transformers"]) == 0
    items = ["red circle left", PILImage.new("RGB", (84, 84), "red")]
    found = np.asarray(SentenceTransformer(str(native), device="cpu").encode(items))
    engine = ume_core.load(str(model), text_only="plain", media_order="given")
    assert np.abs(found - engine.embed(items).vectors("disc")).max() < 1e-5


def ume_example(item: Item) -> Any:
    from ume_train.data.pairs import Example

    return Example(item)


def test_what_a_run_leaves(whole: SFT) -> None:
    names = {p.name for p in whole.out.iterdir()}
    assert {"config.yaml", "log.jsonl", "log.csv", "report.html", "tensorboard", "model"} <= names
    assert "<svg" in (whole.out / "report.html").read_text("utf-8")
    assert [p.name for p in (whole.out / "checkpoints").iterdir()] == ["step-000004"]
    assert list((whole.out / "tensorboard").glob("events*"))
    rows = (whole.out / "log.csv").read_text("utf-8").splitlines()
    assert rows[0].startswith("step,disc,gen") and len(rows) == 5


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_merged_into_the_published_layout(
    dora: bool, tmp_path: Path, drawn: Path, nano: Path
) -> None:
    pytest.importorskip("peft")
    run = make(
        tmp_path, drawn, "adapter", f"model.adapter={{rank: 2, dora: {str(dora).lower()}}}",
        "optimizer.name=adamw", "optimizer.lr=1e-2", steps=2,
    )  # fmt: skip
    run.train()
    model = run.out / "model"
    merged = ume_core.load(str(model), dtype="float32")
    apart = ume_core.load(str(model / "adapter"), dtype="float32")
    before = ume_core.load(str(nano), dtype="float32")
    found = [e.embed(["red circle"]).vectors("disc") for e in (merged, apart, before)]
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert np.abs(found[0] - found[2]).max() > 1e-3
    frozen = {n for n, p in run.trained.model.named_parameters() if p.requires_grad}
    assert frozen and all("lora" in n for n in frozen)
    with torch.no_grad():
        rows = run.render([ume_example(Item((Text("red circle"),)))], answers=False)
        run.trained.model.eval()
        live = torch.nn.functional.normalize(run.policy(rows).disc[0], dim=0).numpy()
    assert np.abs(found[0][0] - live).max() < 1e-5


def test_only_what_is_to_train_changes(tmp_path: Path, drawn: Path) -> None:
    run = make(tmp_path, drawn, "frozen", "model.vision=false", steps=1)
    before = weights(run)
    run.train()
    changed = {n for n, w in weights(run).items() if not torch.equal(w, before[n])}
    assert any("visual.merger" in n for n in changed)
    assert any("language_model" in n for n in changed)
    assert not any("visual.blocks" in n or "patch_embed" in n for n in changed)


def test_media_that_cannot_be_decoded_take_no_part(tmp_path: Path, drawn: Path) -> None:
    """The loss is that of the batch without the pair, not with another in its place."""
    media = tmp_path / "media"
    media.mkdir()
    for path in (drawn / "media").iterdir():
        (media / path.name).write_bytes(path.read_bytes())
    records = json.loads((drawn / "sft.json").read_text())[:6]
    (media / records[2]["qry"]["image"][0]).write_bytes(b"no picture")
    (tmp_path / "sft.json").write_text(json.dumps(records))
    run = make(
        tmp_path, tmp_path, "skip", "data.bad_media=skip", "data.order=file", steps=1,
        records="sft",
    )  # fmt: skip
    run.train()
    (row,) = losses(run.out)
    assert row["skipped"] == 1
    assert "record 2, qry" in (run.out / "skipped.jsonl").read_text()
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "sft.json").write_text(json.dumps(records[:2] + records[3:]))
    (tmp_path / "five" / "media").symlink_to(media)
    less = make(
        tmp_path / "five", tmp_path / "five", "less", "data.order=file", "batch.pairs=5", steps=1,
        records="sft",
    )  # fmt: skip
    less.train()
    (wanted,) = losses(less.out)
    for name in ("disc", "gen", "align", "ce", "grad_norm"):
        assert row[name] == pytest.approx(wanted[name], rel=1e-3), name


def test_batches_that_stay_too_easy_are_warned_of(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sft, "_EASY_STEPS", 2)
    make(tmp_path, drawn, "easy", "batch.pairs=2", records="two", steps=3).train()
    accuracies = [row["accuracy_disc"] for row in losses(tmp_path / "easy")]
    assert accuracies == [1.0, 1.0, 1.0]  # of two pairs
    assert [r["step"] for r in read_log(tmp_path / "easy", "warnings")] == [2, 3]
    said = capsys.readouterr().err
    assert said.count("WARNING, step 2: for 2 steps disc has found more than 99 %") == 1
    assert "left, WARNING: easy" in said
    assert "Warning at 2 steps" in (tmp_path / "easy" / "report.html").read_text("utf-8")


def test_disc_alone_and_sources_of_ones_own(tmp_path: Path, drawn: Path) -> None:
    run = make(tmp_path, drawn, "own", steps=2)
    inner = run.source

    class Mixed:
        def batch(self, step: int) -> PairBatch:
            made = inner.batch(step)
            return PairBatch(
                made.queries, made.positives, gen=step % 2 == 1, blank=step % 2 == 0,
                teacher=np.random.default_rng(step).standard_normal((6, 16)).astype(np.float32),
            )  # fmt: skip

    run.source = Mixed()
    run.train()
    first, second = losses(run.out)
    assert "gen" not in first and "gen" in second
