"""Running out of memory, and numbers that are none, cost at most the item that caused it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ume_core import LimitExceeded, LoadOptions, Sampling
from ume_core.results import EmbeddingResult
from ume_torch import TorchEmbedder
from ume_torch.kv import KeyValues
from ume_torch.memory import is_out_of_memory
from ume_torch.options import TorchOptions
from ume_torch.testing.engine import Scarce, close, many_items

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def qwen2(checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint("qwen2_vl"))


@pytest.mark.parametrize("mode", ["disc", "both"])
def test_out_of_memory_halves_and_says_so_and_loses_nothing(
    checkpoint: Make, qwen2: TorchEmbedder, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    items = many_items()
    expected = qwen2.embed(items, mode=mode, max_new_tokens=9)
    short = TorchEmbedder(checkpoint("qwen2_vl"))
    scarce = Scarce(monkeypatch, tokens=700 if mode == "both" else 200, rows=3)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        close(short.embed(items, mode=mode, max_new_tokens=9), expected)
    assert scarce.refused > 0


@pytest.mark.parametrize("place", ["room", "layer"])
@pytest.mark.parametrize("thinking", ["full", "none"])
def test_a_failure_at_any_place_leaves_no_trace(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, place: str, thinking: str
) -> None:
    """One allocation fails, the k-th of its kind; whatever was half done is done again."""
    options = LoadOptions(thinking=thinking)
    narrow = TorchOptions(gen_rows=3, batch_tokens=700)
    engine = TorchEmbedder(checkpoint("qwen2_vl"), options, narrow)
    # Lengths on both sides of a block's border, so that room grows while rows run.
    items = ["a" * n for n in (1, 20, 40, 60)]
    sampling = Sampling(n=2, seed=3)

    def run() -> EmbeddingResult:
        return engine.embed(items, mode="both", sampling=sampling, max_new_tokens=10)

    expected = run()
    calls = 0
    fail_at = -1

    def counted(original: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            real = args[1:] != (0, 0)  # an empty room needs no memory
            calls += real
            if real and calls == fail_at:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
            return original(*args, **named)

        return call

    if place == "room":
        monkeypatch.setattr(KeyValues, "allocate", counted(KeyValues.allocate))
    else:
        for layer in engine.runner.decoder.layers:
            monkeypatch.setattr(layer.mlp, "forward", counted(layer.mlp.forward))
    close(run(), expected)
    total = calls
    assert total > 10
    for fail_at in np.unique(np.linspace(1, total - 1, 6).astype(int)).tolist():
        calls = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(run(), expected)
        assert calls > fail_at


def test_what_torch_says_without_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_nan_item_fails_alone(qwen2: TorchEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    original = type(qwen2.runner).disc

    def with_nan(runner: Any, prompts: Any) -> Any:
        states: Any = original(runner, prompts)
        return [torch.full_like(s, torch.nan) if len(p.ids) > 150 else s
                for s, p in zip(states, prompts, strict=True)]  # fmt: skip

    monkeypatch.setattr(type(qwen2.runner), "disc", with_nan)
    found = qwen2.embed(["a", "b" * 300, "c"], on_error="record")
    assert found.failed == [1] and "NaN" in str(found.records[1].reason)


def test_an_item_too_large_alone_fails_alone(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    items = ["a", "x" * 3000, "b"]
    for mode in ("disc", "gen"):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Scarce(patch, tokens=2000, rows=99)
            found = engine.embed(items, mode=mode, max_new_tokens=3, on_error="record")
            assert [r.status == "failed" for r in found.records] == [False, True, False]
            with pytest.raises(LimitExceeded, match=r"item 1.*memory even alone.*Fix"):
                engine.embed(items, mode=mode, max_new_tokens=3)
    with monkeypatch.context() as patch:
        Scarce(patch, tokens=9999, rows=0)
        found = engine.embed(["a"], mode="gen", max_new_tokens=3, on_error="record")
        assert found.failed == [0]
