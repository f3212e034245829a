"""Feeding one token to every running row: plainly, or as a replayed CUDA graph.

A decoding step is some hundred small kernels; on a GPU launching them costs many times what they
compute. A CUDA graph launches them at once, but works on fixed addresses and shapes only. So a
graph is recorded per number of rows (a power of two, the unused ones reading one harmless column)
over the whole room of the cache, and recorded again when the cache has grown.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ume_torch.kv import KeyValues
from ume_torch.memory import is_out_of_memory

# feed (3, rows) int64, cache, width -> states (rows, hidden); see `Decoder.step`.
Step: TypeAlias = Callable[[Tensor, KeyValues, int], Tensor]


class Recorder(Protocol):
    """Makes something that can be run again, on the same memory, of work that is shown to it.

    Attributes:
        usable: False once recording has failed.
    """

    usable: bool

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records without computing; each replay returns the same tensor, filled anew."""
        ...


class Steps(Protocol):
    """How rows are fed."""

    def __call__(self, ids: Sequence[int], positions: Sequence[int], cache: KeyValues) -> Tensor:
        """Extend the cache by one token a row; final-norm states (rows, hidden) of these tokens.

        The states may be overwritten by the next call.
        """
        ...

    def forget(self) -> None:
        """Give back memory that is held for coming steps."""
        ...


class Plain:
    """Every operation launched by itself."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def __call__(self, ids: Sequence[int], positions: Sequence[int], cache: KeyValues) -> Tensor:
        """See `Steps`."""
        cache.extend()
        feed = _feed(len(ids), ids, positions, cache.lengths)
        return self._step(feed.to(cache.shape.device), cache, max(cache.lengths))

    def forget(self) -> None:
        """Nothing is held."""


class Graphed:
    """Steps as graphs. One instance serves one cache."""

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._version = -1
        self._fit = True
        # Per number of rows: what is fed, and how to run it once it is recorded.
        self._graphs: dict[int, tuple[Tensor, Callable[[], Tensor] | None]] = {}

    def __call__(self, ids: Sequence[int], positions: Sequence[int], cache: KeyValues) -> Tensor:
        """See `Steps`."""
        cache.extend()
        if cache.version != self._version:
            self._graphs.clear()  # recorded on memory that is gone
            self._version = cache.version
        room, width = cache.room
        rows = min(1 << (len(ids) - 1).bit_length(), room)
        values = _feed(rows, ids, positions, cache.lengths)
        if rows not in self._graphs or not (self._fit and self._recorder.usable):
            # As it will be recorded, so that kernels of these very shapes are loaded by then.
            feed = values.to(cache.shape.device)
            self._graphs[rows] = feed, None
            return self._step(feed, cache, width)[: len(ids)]
        feed, replay = self._graphs[rows]
        feed.copy_(values)
        if replay is None:
            replay = self._recorded(feed, cache, width)
            self._graphs[rows] = feed, replay
        states = replay() if replay is not None else self._step(feed, cache, width)
        return states[: len(ids)]

    def forget(self) -> None:
        """Drop the graphs and the memory of what they compute."""
        self._graphs.clear()

    def _recorded(self, feed: Tensor, cache: KeyValues, width: int) -> Callable[[], Tensor] | None:
        try:
            return self._recorder(lambda: self._step(feed, cache, width))
        except Exception as error:
            self._graphs.clear()
            self._fit = False
            if not is_out_of_memory(error):
                self._recorder.usable = False
            warnings.warn(
                f"ume_torch: no CUDA graph could be recorded ({error}); decoding goes on without, "
                "more slowly. cuda_graphs=False does so from the start",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return None


def _feed(
    rows: int, ids: Sequence[int], positions: Sequence[int], lengths: Sequence[int]
) -> Tensor:
    """(3, rows) int64: unused rows see, and write, their first column only."""
    spare = rows - len(ids)
    return torch.tensor(
        [[*ids, *[0] * spare], [*positions, *[0] * spare], [*lengths, *[1] * spare]]
    )


_recording = threading.Lock()  # torch: one capture at a time in a process


class CudaRecorder:
    """Work on one device as CUDA graphs. Other threads may use the device meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self.usable = True
        self._device = device
        self._stream = torch.cuda.Stream(device)  # each has its own cuBLAS workspace: one is enough

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder`."""
        # Not `torch.cuda.graph`: it stops the device and empties the allocator's cache first, takes
        # the current device, and stays on its stream when a capture fails (torch 2.12.1).
        graph = torch.cuda.CUDAGraph()
        with _recording, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                out = work()
            finally:
                graph.capture_end()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
