"""SFT: losses against their definitions, and a resumed run against an uninterrupted one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import ume_nano
from ume_core import Image, Item, Text
from ume_train.data import Answer, Example, PairBatch
from ume_train.forward import prompt_states
from ume_train.losses import follow, info_nce, next_token_loss, teacher_nce
from ume_train.sft import SFTConfig, Trainer


def test_info_nce_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    q, p = torch.randn(4, 8), torch.randn(4, 8)
    cosine = np.array([[float(torch.cosine_similarity(a, b, 0)) for b in p] for a in q]) / 0.1

    def rows(scores: np.ndarray) -> float:
        return float(np.mean([np.log(np.exp(r).sum()) - r[i] for i, r in enumerate(scores)]))

    expected = (rows(cosine) + rows(cosine.T)) / 2
    assert abs(float(info_nce(q, p, 0.1)) - expected) < 1e-5


def test_pairs_that_match_cost_less_than_pairs_that_do_not() -> None:
    x = torch.eye(5)
    assert info_nce(x, x, 0.05) < 1e-3 < info_nce(x, x.flip(0), 0.05)
    assert teacher_nce(x, x, 0.05) < teacher_nce(x.flip(0), x, 0.05)
    unknown = torch.full((5, 5), torch.nan)
    assert float(teacher_nce(x, unknown, 0.05)) == 0


def test_following_moves_the_student_only() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0], [0.0, 1.0]], requires_grad=True)
    loss = follow(student, teacher)
    loss.backward()
    assert abs(float(loss.detach()) - 0.5) < 1e-6  # the mean of 1 - cos 90 and 1 - cos 0 degrees
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_next_token_loss_is_the_log_of_the_vocabulary_without_knowledge() -> None:
    loss = next_token_loss(torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.randn(10, 4))
    assert abs(float(loss) - np.log(10)) < 1e-5


class Source:
    """Colours and their names; every third batch trains answers."""

    names = ("red", "green", "blue", "white", "black", "yellow")

    def batch(self, step: int) -> PairBatch:
        rng = np.random.default_rng(step)
        names = [str(n) for n in rng.permutation(self.names)[:4]]
        answers = [
            Answer(f"It is {n}.", n, "all" if rng.random() < 0.8 else "summary") for n in names
        ]
        pictures = [Item((Image(PILImage.new("RGB", (56, 56), n)),)) for n in names]
        return PairBatch(
            [Example(i, a) for i, a in zip(pictures, answers, strict=True)],
            [Example(Item((Text(n),)), a) for n, a in zip(names, answers, strict=True)],
            gen=step % 3 == 2,
            teacher=rng.standard_normal((4, 16)).astype(np.float32) if step % 2 else None,
        )


def _run(tmp_path: Path, name: str, stops: list[int]) -> tuple[dict[str, torch.Tensor], list[str]]:
    run = tmp_path / name
    shutil.copytree(ume_nano.path(), run / "model")
    config = SFTConfig(
        steps=8, warmup=2, save_every=100, log_every=1, bf16=False, weight_teacher=0,
        weight_follow=1.0,
    )  # fmt: skip
    for stop in stops:
        Trainer(run, Source(), config).train(until=stop)
        with (run / "log.jsonl").open("a") as log:  # as if killed before the next save
            log.write(json.dumps({"step": stop + 1}) + "\n")
    return Trainer(run, Source(), config).model.state_dict(), (
        run / "log.jsonl"
    ).read_text().splitlines()


def _losses(row: str) -> dict[str, float]:
    return {k: v for k, v in json.loads(row).items() if k != "seconds"}


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, log = _run(tmp_path, "whole", [8])
    parts, again = _run(tmp_path, "parts", [3, 5, 8])
    assert [json.loads(row)["step"] for row in log] == list(range(1, 9))
    assert [_losses(row) for row in again] == [_losses(row) for row in log]
    assert ["follow" in row for row in log] == [step % 3 == 2 for step in range(8)]  # gen batches
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=0, atol=1e-6)
    saved = Trainer(tmp_path / "parts", Source(), SFTConfig(steps=8, bf16=False))
    assert saved.step == 8


def test_prompts_of_any_lengths_train_on_the_states_each_has_alone(tmp_path: Path) -> None:
    shutil.copytree(ume_nano.path(), tmp_path / "model")
    trainer = Trainer(tmp_path, Source(), SFTConfig(steps=1))
    pixels = np.full((60, 60, 3), 90, dtype=np.uint8)
    parts = [Text("a"), Text("word " * 30), Image(PILImage.fromarray(pixels)), Text("two")]
    prepare = trainer.preparers["blank"]
    prompts = [prepare(Item((part,)), gen=True) for part in parts]
    pad = trainer.tokenizer.special.pad
    with torch.no_grad():
        together = prompt_states(trainer.model, prompts, pad)
        alone = torch.cat([prompt_states(trainer.model, [p], pad) for p in prompts])
    assert together.shape == alone.shape
    assert (together - alone).abs().max() < 1e-4  # states are not normalised


def test_a_resumed_run_keeps_its_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ume_nano.path(), tmp_path / "model")
    monkeypatch.setattr("ume_train.sft.has_bf16", lambda device: False)
    Trainer(tmp_path, Source(), SFTConfig(steps=8)).save()
    monkeypatch.setattr("ume_train.sft.has_bf16", lambda device: True)
    assert Trainer(tmp_path, Source(), SFTConfig(steps=8)).bf16 is False
    assert Trainer(tmp_path, Source(), SFTConfig(steps=8, bf16=True)).bf16 is True
