"""Engines on a GPU: lanes that each compute one request, as captured CUDA graphs.

A lane owns a stream, one block for inputs and outputs, and the scratch memory of its contexts. A
point (see `ume_tensorrt.profiles`) that comes for the second time gets an execution context of its
own, captured once: NVIDIA's advice, since a context's shapes must not change under a captured
graph. Before, it runs on a context that such points share: pictures come in many sizes, most of
them once. Requests take a free lane; while all are busy they wait, so memory does not grow with
callers.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorrt as trt

from ume_core.errors import CheckpointError, EngineUnavailable, UmeError
from ume_qwen.exported.inputs import Arrays, Floats
from ume_tensorrt import cuda
from ume_tensorrt.buffers import Buffers, nbytes, output_shape, plan
from ume_tensorrt.profiles import Inputs, Point, Profiles, shape

# Points of one graph and lane that stay captured, each with an execution context, and how many that
# came once are remembered.
_POINTS, _SEEN = 32, 256


class Log(trt.ILogger):
    """Keeps what TensorRT says of failures, for the error that follows."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._lines = [*self._lines[-4:], msg]

    def clear(self) -> None:
        """Forget, before something new is tried."""
        self._lines = []

    @property
    def said(self) -> str:
        """Its last words."""
        return "; ".join(self._lines) or "TensorRT gave no reason"


# TensorRT keeps the first logger of a process, whatever later runtimes and builders bring.
LOG = Log()


@dataclass
class _Captured:
    """A point of one lane: its context, and what it queues as one graph (None: not capturable)."""

    context: trt.IExecutionContext
    graph: cuda.CapturedGraph | None


class Runtime:
    """The engines of one directory, loaded on one GPU. Thread-safe.

    Attributes:
        capture: whether sizes that come again are captured.
        uncaptured: points whose work CUDA would not capture, and that are queued call by call.
    """

    def __init__(
        self,
        plans: Mapping[str, Path],
        inputs: Mapping[str, Inputs],
        profiles: Profiles,
        *,
        hidden: int,
        device: int,
        lanes: int,
        host_code: bool,
        capture: bool = True,
    ) -> None:
        """Load engines.

        Args:
            plans: engine file by graph.
            inputs: the graphs' inputs, as the manifest has them.
            profiles: what the engines take.
            hidden: the vectors' width.
            device: the GPU's number.
            lanes: requests computed at once.
            host_code: engines hold a lean runtime (version-compatible ones do), which is code that
                runs on this machine.
            capture: capture sizes that come again as CUDA graphs.

        Raises:
            CheckpointError: an engine cannot be loaded. MemoryError: the GPU's does not suffice.
        """
        self.inputs, self.profiles, self.hidden, self.device = inputs, profiles, hidden, device
        self.capture = capture
        self.uncaptured = 0
        self.lock = threading.Lock()
        cuda.use(device)
        try:
            self._runtime: trt.Runtime | None = trt.Runtime(LOG)
        except TypeError as error:  # how the bindings say that there is none
            raise EngineUnavailable(
                f"TensorRT does not start: {LOG.said}", fix="check the NVIDIA driver"
            ) from error
        self._runtime.engine_host_code_allowed = host_code
        self.engines = {graph: self._load(path) for graph, path in plans.items()}
        self.buffers = {g: plan(g, inputs[g], profiles[g], hidden) for g in plans}
        self._free: queue.LifoQueue[_Lane] = queue.LifoQueue()
        self._lanes: list[_Lane] = []
        try:
            for _ in range(lanes):
                self._lanes.append(_Lane(self))
                self._free.put(self._lanes[-1])
        except BaseException:
            self.close()
            raise

    def run(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """One request, padded to `point`; the output at its sizes."""
        with self._lane() as lane:
            return lane.run(graph, point, arrays)

    @contextmanager
    def _lane(self) -> Generator[_Lane]:
        lane = self._free.get()
        try:
            cuda.use(self.device)
            yield lane
        except BaseException:
            lane.settle()
            raise
        finally:
            self._free.put(lane)

    def _load(self, path: Path) -> trt.ICudaEngine:
        LOG.clear()
        assert self._runtime is not None
        engine = cast(Any, self._runtime.deserialize_cuda_engine(path.read_bytes()))
        if engine is None and "memory" in LOG.said.lower():
            raise MemoryError(f"the GPU does not hold {path}: {LOG.said}")
        if engine is None:
            raise CheckpointError(f"{path} cannot be loaded: {LOG.said}", fix="build it again")
        return engine

    def close(self) -> None:
        """Free what the GPU holds, when no request runs; safe to repeat."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        self._free = queue.LifoQueue()
        # At once: lanes and runtime name each other, and the collector sees no GPU memory.
        self.engines = {}
        self._runtime = None


class _Lane:
    """What one request at a time uses."""

    def __init__(self, runtime: Runtime) -> None:
        self._of = runtime
        self._captured: dict[str, OrderedDict[Point, _Captured]] = {
            graph: OrderedDict() for graph in runtime.engines
        }
        self._seen: OrderedDict[tuple[str, Point], None] = OrderedDict()
        self._shared: dict[tuple[str, int], trt.IExecutionContext] = {}
        self._stream = cuda.Stream()
        self._block: cuda.Block | None = None
        self._scratch: cuda.Scratch | None = None
        try:
            # Vision and text take turns on a lane, so they share its memory.
            self._block = cuda.Block(max(b.nbytes for b in runtime.buffers.values()))
            self._scratch = cuda.Scratch(
                max(engine.device_memory_size_v2 for engine in runtime.engines.values())
            )
        except BaseException:
            self.close()
            raise

    def run(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """Compute padded arrays."""
        assert self._block is not None
        buffers = self._of.buffers[graph]
        for name, array in arrays.items():
            self._view(buffers, name, array.shape, array.dtype)[...] = array
        with self._reported(graph, point):
            captured = self._at(graph, point)
            if captured is None:
                self._queue(graph, point, self._shared_at(graph, point))
            elif captured.graph is None:
                self._queue(graph, point, captured.context)
            else:
                captured.graph.launch()
            self._stream.wait()
        wanted = output_shape(graph, dict(point.sizes), self._of.hidden)
        return self._view(buffers, buffers.output, wanted, np.dtype(np.float32)).copy()

    def _view(self, buffers: Buffers, name: str, dims: tuple[int, ...], dtype: Any) -> Any:
        assert self._block is not None
        start = buffers.offsets[name]
        size = int(np.prod(dims, dtype=np.int64)) * dtype.itemsize
        return self._block.host[start : start + size].view(dtype).reshape(dims)

    @contextmanager
    def _reported(self, graph: str, point: Point) -> Generator[None]:
        try:
            yield
        except UmeError:
            raise
        except (RuntimeError, ValueError) as error:  # how the bindings report some failures
            raise self._failed(graph, point, f": {error}") from error

    def _at(self, graph: str, point: Point) -> _Captured | None:
        """What is captured of a point, now or before; None where it comes for the first time."""
        if not self._of.capture:
            return None
        captured, key = self._captured[graph], (graph, point)
        if point in captured:
            captured.move_to_end(point)
            return captured[point]
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
            return None
        while len(captured) >= _POINTS:
            _, old = captured.popitem(last=False)
            if old.graph is not None:
                old.graph.close()
            with self._of.lock:
                del old
        captured[point] = self._capture(graph, point)
        return captured[point]

    def _shared_at(self, graph: str, point: Point) -> trt.IExecutionContext:
        """The context of points that come once, at the point's sizes."""
        key = (graph, point.profile)
        if key not in self._shared:
            self._shared[key] = self._context(graph, point)
        self._resize(self._shared[key], graph, point)
        return self._shared[key]

    def _context(self, graph: str, point: Point) -> trt.IExecutionContext:
        """A new one, on the point's profile and the lane's scratch memory."""
        assert self._scratch is not None
        of, handle = self._of, self._stream.handle
        with of.lock:  # an engine makes contexts for one thread at a time
            context = cast(Any, of.engines[graph]).create_execution_context(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            raise MemoryError(f"no execution context: {LOG.said}")
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        self._must(context.set_optimization_profile_async(point.profile, handle), graph, point)
        self._stream.wait()
        return context

    def _resize(self, context: trt.IExecutionContext, graph: str, point: Point) -> None:
        assert self._block is not None
        buffers, inputs = self._of.buffers[graph], self._of.inputs[graph]
        sizes = dict(point.sizes)
        for name in inputs:
            self._must(context.set_input_shape(name, shape(inputs, name, sizes)), graph, point)
        for name, offset in buffers.offsets.items():
            address = self._block.device + offset
            self._must(context.set_tensor_address(name, address), graph, point)
        self._must(not context.infer_shapes(), graph, point)

    def _capture(self, graph: str, point: Point) -> _Captured:
        context = self._context(graph, point)
        self._resize(context, graph, point)
        # Once outside the capture: TensorRT finishes its set-up on the first call.
        self._queue(graph, point, context)
        self._stream.wait()
        try:
            captured = self._stream.capture(lambda: self._queue(graph, point, context))
        except EngineUnavailable:
            with self._of.lock:
                self._of.uncaptured += 1
            captured = None
        return _Captured(context, captured)

    def _queue(self, graph: str, point: Point, context: trt.IExecutionContext) -> None:
        """Inputs up, the engine, the output down; all at the point's sizes."""
        assert self._block is not None
        of, handle, sizes = self._of, self._stream.handle, dict(point.sizes)
        buffers, inputs = of.buffers[graph], of.inputs[graph]
        for name, (element, _) in inputs.items():
            size = nbytes(shape(inputs, name, sizes), element)
            self._block.upload(buffers.offsets[name], size, handle)
        self._must(context.execute_async_v3(handle), graph, point)
        size = nbytes(output_shape(graph, sizes, of.hidden), "FLOAT")
        self._block.download(buffers.offsets[buffers.output], size, handle)

    def _must(self, done: bool, graph: str, point: Point) -> None:
        if not done:
            raise self._failed(graph, point)

    def _failed(self, graph: str, point: Point, why: str = "") -> EngineUnavailable:
        return EngineUnavailable(
            f"the {graph} engine failed at {dict(point.sizes)}{why}; TensorRT: {LOG.said}",
            fix="build it again; if that does not help, report it as a bug",
        )

    def settle(self) -> None:
        """After a failure: until nothing queued writes into the block any more."""
        with suppress(EngineUnavailable, MemoryError):
            self._stream.wait()

    def close(self) -> None:
        """Free what the GPU holds."""
        for captured in self._captured.values():
            for point in captured.values():
                if point.graph is not None:
                    point.graph.close()
            captured.clear()
        self._shared.clear()
        for held in (self._block, self._scratch, self._stream):
            if held is not None:
                held.close()
        self._block = self._scratch = None
