"""vLLM itself, on a CPU, against ume-torch; skipped where it is not installed."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ume_nano
from ume_core import Image, InvalidOption, LimitExceeded, LoadOptions, Sampling, Text, Video, load
from ume_core.testing import EmbedderContract
from ume_core.testing.contract import mixed_items, picture
from ume_torch import TorchEmbedder

pytest.importorskip("vllm", reason="not run: vLLM is not installed here; tools/setup vllm")
from ume_train.commands.stage import open_source, with_drawn
from ume_train.config import read_config
from ume_train.sft import SFT
from ume_vllm.engine import VllmEmbedder
from ume_vllm.options import VllmOptions

Make = Callable[[str], Path]
SMALL = VllmOptions(kv_gib=0.25, rows=16)
KINDS = ("qwen2_vl", "qwen2_5_vl")


@pytest.fixture(scope="module")
def nano() -> VllmEmbedder:
    return VllmEmbedder(ume_nano.path(), LoadOptions(), SMALL)


class TestVllmNano(EmbedderContract):
    temperature = 2.0  # vLLM's most

    @pytest.fixture(scope="class")
    def embedder(self, nano: VllmEmbedder) -> VllmEmbedder:
        return nano


def many_items() -> list[Any]:
    """Images of several sizes, several images, videos, texts, all in one batch."""
    clips = [Video([picture(30 + s, 84, 56) for s in range(n)]) for n in (2, 5)]
    return [
        *mixed_items(), *(Image(picture(20 + n, 28 * n, 84)) for n in (2, 5, 9)),
        [Image(picture(40, 140, 84)), Text("beside"), Image(picture(41)), *clips],
        [clips[1], Text("what moves?")],
        "a longer text of some more words, to fill another batch",
    ]  # fmt: skip


def test_nano_gives_ume_torchs_vectors_and_texts(nano: VllmEmbedder) -> None:
    _same(nano, TorchEmbedder(ume_nano.path()), many_items(), max_new_tokens=24)


def test_what_ume_train_saves_gives_ume_torchs_vectors_and_texts(tmp_path: Path) -> None:
    changes = ["run.steps=2", "run.device=cpu", "data.drawn=24", "evaluate.every=0"]
    config: Any = with_drawn("sft", read_config("sft", "tiny", changes), tmp_path)
    SFT(config, tmp_path, open_source("sft", config, tmp_path), 2).train()
    trained, before = TorchEmbedder(tmp_path / "model"), TorchEmbedder(ume_nano.path())
    moved = trained.embed(["a dog"]).vectors("disc") - before.embed(["a dog"]).vectors("disc")
    assert np.abs(moved).max() > 1e-3
    mine = VllmEmbedder(tmp_path / "model", LoadOptions(), SMALL)
    _same(mine, trained, many_items(), max_new_tokens=24)


@pytest.mark.parametrize("kind", KINDS)
def test_random_checkpoints_give_ume_torchs_vectors_and_texts(heads32: Make, kind: str) -> None:
    mine = VllmEmbedder(heads32(kind), LoadOptions(), SMALL)
    _same(mine, TorchEmbedder(heads32(kind)), many_items(), max_new_tokens=12)


@pytest.mark.parametrize("thinking", ["none", "short", "skip"])
def test_less_thinking_is_ume_torchs(nano: VllmEmbedder, thinking: str) -> None:
    options = LoadOptions(thinking=thinking, thinking_tokens=4)
    mine = VllmEmbedder(ume_nano.path(), options, SMALL, backend=nano.backend)
    _same(mine, TorchEmbedder(ume_nano.path(), options), many_items(), max_new_tokens=16)


def test_sampling_that_vllm_does_not_take_is_refused(nano: VllmEmbedder) -> None:
    hot = Sampling(temperature=5.0)
    with pytest.raises(InvalidOption, match=r"item 0: .*temperature.*Fix: "):
        nano.embed(["a"], mode="gen", sampling=hot)


def test_an_item_too_long_for_the_engines_context_fails_alone() -> None:
    short = VllmEmbedder(ume_nano.path(), LoadOptions(), replace(SMALL, context=256))
    result = short.embed(["a dog", "dog " * 400], on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed"]
    assert "context" in (result.records[1].reason or "")
    with pytest.raises(LimitExceeded, match="item 1"):
        short.embed(["a dog", "dog " * 400])


def test_bfloat16_stays_near_float32(nano: VllmEmbedder) -> None:
    exact = nano.embed(many_items())
    rounded = VllmEmbedder(ume_nano.path(), LoadOptions(dtype="bfloat16"), SMALL)
    found = rounded.embed(many_items())
    assert found.signature.dtype == "bfloat16"
    cosines = (found.vectors("disc") * exact.vectors("disc")).sum(axis=1)
    print("bfloat16, least cosine to float32:", cosines.min())
    assert cosines.min() > 0.99


def test_a_dropped_engine_takes_no_other_down(nano: VllmEmbedder, heads32: Make) -> None:
    before = nano.embed(["a dog"]).vectors("disc")
    other = VllmEmbedder(heads32("qwen2_vl"), LoadOptions(), SMALL)
    other.embed(["a dog"])
    del other
    gc.collect()
    assert (nano.embed(["a dog"]).vectors("disc") == before).all()


def test_the_front_door_loads_it_by_name() -> None:
    model = load(ume_nano.path(), engine="vllm", kv_gib=0.25)
    assert model.name == "vllm" and model.modes == {"disc", "gen", "both"}
    with pytest.raises(InvalidOption, match="kv_gib"):
        load(ume_nano.path(), engine="vllm", kv_gb=1)
    with pytest.raises(InvalidOption, match="device='cpu'"):
        load(ume_nano.path(), engine="vllm", device="cuda")
    with pytest.raises(InvalidOption, match="tensor_parallel"):
        load(ume_nano.path(), engine="vllm", tensor_parallel=2)


def test_the_readmes_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (block,) = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.S)
    monkeypatch.chdir(readme.parents[2])
    exec(compile(block, "README.md", "exec"), {})
    assert "(2, 192) (2, 192)" in capsys.readouterr().out


def _same(mine: VllmEmbedder, torch: TorchEmbedder, items: list[Any], **options: Any) -> None:
    a, b = (e.embed(items, mode="both", **options) for e in (mine, torch))
    assert [r.samples for r in a.records] == [r.samples for r in b.records]
    assert [r.prompt_tokens for r in a.records] == [r.prompt_tokens for r in b.records]
    for mode in ("disc", "gen"):
        difference = float(np.abs(a.vectors(mode) - b.vectors(mode)).max())
        print(mode, difference)
        assert difference < 1e-5
    assert a.signature == b.signature
