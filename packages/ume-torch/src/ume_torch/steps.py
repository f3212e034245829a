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
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ume_torch.kv import KeyValues
from ume_torch.memory import is_out_of_memory, release

# feed (3, rows) int64, cache, width -> states (rows, hidden); see `Decoder.step`.
Step: TypeAlias = Callable[[Tensor, KeyValues, int], Tensor]


class Session(Protocol):
    """Makes something that can be run again, on the same memory, of work that is shown to it."""

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records without computing; each replay returns the same tensor, filled anew."""
        ...

    def close(self) -> None:
        """What it recorded has been dropped: give it back."""
        ...


class Recorder(Protocol):
    """Where sessions come from, one for every cache that is in use.

    Attributes:
        usable: False once recording has failed.
    """

    usable: bool

    def session(self) -> Session:
        """One that nobody else has."""
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

    def close(self) -> None:
        """No more steps come."""
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

    def close(self) -> None:
        """Nothing is held."""


class Graphed:
    """Steps as graphs. One instance serves one cache."""

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder, self._session = step, recorder, recorder.session()
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

    def close(self) -> None:
        """Drop the graphs; the session is another cache's to use."""
        self._graphs.clear()
        self._session.close()

    def _recorded(self, feed: Tensor, cache: KeyValues, width: int) -> Callable[[], Tensor] | None:
        def work() -> Tensor:
            return self._step(feed, cache, width)

        try:
            try:
                return self._session(work)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # While it records, torch's allocator does not give back what it merely keeps.
                self._graphs.clear()
                release(str(cache.shape.device))
                return self._session(work)
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
        self.device = device
        self._idle: list[_CudaSession] = []

    def session(self) -> Session:
        """See `Recorder`."""
        with suppress(IndexError):
            return self._idle.pop()
        return _CudaSession(self)

    def put_back(self, session: _CudaSession) -> None:
        """Its stream and memory serve the next cache."""
        self._idle.append(session)


class _CudaSession:
    """The stream and the memory pool of the graphs of one cache at a time.

    A pool for every graph would grow without end: torch keeps those of dead graphs, and a cuBLAS
    workspace in each (32 MiB on Hopper), until an allocation fails. And a stream's workspace is
    baked into its graphs but cleared with any of them (pytorch/pytorch#193402), so that graphs that
    live apart must not share a stream.
    """

    def __init__(self, recorder: CudaRecorder) -> None:
        self._recorder = recorder
        self._stream = torch.cuda.Stream(recorder.device)
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._keeper: torch.cuda.CUDAGraph | None = None

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Session`."""
        if self._keeper is None:
            # A pool dies with its last graph: this one stays, as in torch's own cudagraph_trees.
            self._keeper, _ = self._capture(lambda: torch.zeros(1, device=self._recorder.device))
        graph, out = self._capture(work)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    def close(self) -> None:
        """See `Session`."""
        self._recorder.put_back(self)

    def _capture(self, work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Not `torch.cuda.graph`: it stops the device and empties the allocator's cache first, takes
        # the current device, and stays on its stream when a capture fails (torch 2.12.1).
        graph = torch.cuda.CUDAGraph()
        with _recording, torch.cuda.device(self._recorder.device), torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = work()
            finally:
                self._end(graph)
        return graph, out

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except Exception:
            # An invalid capture raises before the allocator is told that it is over (torch 2.12.1,
            # pytorch/pytorch#180395), which would then give nothing back for good.
            for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
                with suppress(Exception):
                    getattr(torch._C, name)(torch.cuda.current_device(), self._pool)
            raise
