"""Decoding by recorded steps (CUDA graphs), with stand-ins for the recorder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from ume_core import Sampling
from ume_core.items import ItemLike
from ume_torch import TorchEmbedder
from ume_torch.kv import KeyValues
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels
from ume_torch.steps import CudaRecorder
from ume_torch.testing.engine import close, many_items

Make = Callable[[str], Path]
KINDS = ["qwen2_vl", "qwen2_5_vl"]


class Tape:
    """What a CUDA graph does, on a CPU: runs nothing when recorded; on replay, what was recorded,
    on the same memory and into the same memory. `fails` is raised by the second recording and as
    many after it as `times` says."""

    def __init__(self, fails: Exception | None = None, times: int = 1) -> None:
        self.usable = True
        self.recorded = self.replayed = self.open = 0
        self._fails, self._times = fails, times
        self._looking = False
        self._memory: list[int] = []

    def session(self) -> Tape:
        self.open += 1
        return self

    def close(self) -> None:
        self.open -= 1

    def __call__(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        if self._fails is not None and 2 <= self.recorded < 2 + self._times:
            raise self._fails
        self._looking = True
        work()
        self._looking = False
        recorded_on = self._memory
        out: torch.Tensor | None = None

        def replay() -> torch.Tensor:
            nonlocal out
            self.replayed += 1
            states = work()
            assert self._memory == recorded_on
            out = states.clone() if out is None else out.copy_(states)
            return out

        return replay

    def watch(self, decoder: Any) -> None:
        """See the memory that the decoder's steps work on."""
        step = decoder.step

        def watched(feed: torch.Tensor, cache: KeyValues, width: int) -> torch.Tensor:
            layers = [cache.layer(n) for n in range(cache.shape.layers)]
            self._memory = [feed.data_ptr(), *(t.data_ptr() for kv in layers for t in kv), width]
            return feed if self._looking else step(feed, cache, width)

        decoder.step = watched


def taped(directory: Path, tape: Tape, options: TorchOptions) -> TorchEmbedder:
    """An engine that decodes by the tape, with room that grows often."""
    kernels = Kernels(recorder=tape, block=8)
    engine = TorchEmbedder(directory, engine_options=options, kernels=kernels)
    tape.watch(engine.runner.decoder)
    return engine


@pytest.mark.parametrize(
    ("kind", "samples"), [*((kind, None) for kind in KINDS), (KINDS[0], Sampling(n=3, seed=4))]
)
def test_replayed_steps_do_not_show(checkpoint: Make, kind: str, samples: Sampling | None) -> None:
    rows = TorchOptions(gen_rows=7)
    engine = TorchEmbedder(checkpoint(kind), engine_options=rows)
    short: list[ItemLike] = ["a", "bcd", "efghijkl"]  # the room grows while they are answered
    parts = [many_items()[: 5 if samples else None], short, [short[0]]]
    options: dict[str, Any] = {"mode": "both", "sampling": samples, "max_new_tokens": 24}
    expected = [engine.embed(part, **options) for part in parts]
    tape = Tape()
    engine = taped(checkpoint(kind), tape, rows)
    for part, right in zip(parts, expected, strict=True):
        close(engine.embed(part, **options), right)
    assert tape.usable and tape.replayed > 20 and tape.recorded > 5 and tape.open == 0


@pytest.mark.parametrize(
    ("error", "times", "usable"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), 1, False),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, True),
    ],
)
def test_a_recording_that_fails_costs_no_answer(
    checkpoint: Make, error: Exception, times: int, usable: bool
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    expected = engine.embed(many_items(), mode="gen", max_new_tokens=30)
    tape = Tape(error, times)
    engine = taped(checkpoint("qwen2_vl"), tape, TorchOptions())
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be recorded"):
        close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert tape.usable is usable
    recorded = tape.recorded
    close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert (tape.recorded > recorded) is usable  # the next call tries again, or does not


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_recording_without_memory_is_tried_again_when_some_was_given_back(
    checkpoint: Make,
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    expected = engine.embed(many_items(), mode="gen", max_new_tokens=30)
    tape = Tape(torch.OutOfMemoryError("CUDA out of memory"))
    engine = taped(checkpoint("qwen2_vl"), tape, TorchOptions())
    close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert tape.recorded > 3 and tape.open == 0


class FakeGraph:
    """What `torch.cuda.CUDAGraph` is told, in `said`; `fails` is raised by `capture_end`."""

    said: ClassVar[list[Any]] = []
    fails: ClassVar[Exception | None] = None

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        self.said.append((pool, capture_error_mode))

    def capture_end(self) -> None:
        if self.fails is not None:
            raise self.fails


def test_a_cache_at_a_time_has_a_stream_and_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    ended: list[Any] = []
    pools = iter("ab")
    monkeypatch.setattr(FakeGraph, "said", said)
    fakes: dict[str, Any] = {
        "CUDAGraph": FakeGraph, "Stream": lambda _: object(), "stream": nullcontext,
        "graph_pool_handle": lambda: next(pools), "device": nullcontext,
        "current_device": lambda: 0,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *a: ended.append(a), raising=False)
    recorder = CudaRecorder(torch.device("cpu"))
    first, second = recorder.session(), recorder.session()
    for session in (first, second, first):
        session(lambda: torch.ones(1))
    # A pool's first graph is the one that keeps it alive.
    assert said == [(pool, "thread_local") for pool in "aabba"]
    second.close()
    assert recorder.session() is second  # the memory of graphs that are gone is used again
    assert ended == []
    failure = RuntimeError("operation failed due to a previous error during capture")
    monkeypatch.setattr(FakeGraph, "fails", failure)
    with pytest.raises(RuntimeError, match="previous error"):
        second(lambda: torch.ones(1))
    assert ended == [(0, "b")] * 2
