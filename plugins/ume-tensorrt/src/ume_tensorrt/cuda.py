"""The few CUDA runtime calls this engine needs, through NVIDIA's cuda-bindings.

Every call's status is checked; what is allocated is freed by `close`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ume_core.errors import EngineUnavailable, InvalidOption
from ume_tensorrt.manifest import Device

_cuda: Any = import_module("cuda.bindings.runtime")  # compiled, without types


def call(function: Callable[..., Any], *args: Any) -> Any:
    """A call's result.

    Raises:
        MemoryError: no memory. EngineUnavailable: any other failure, by CUDA's own name.
    """
    status, *results = function(*args)
    if status == _cuda.cudaError_t.cudaErrorMemoryAllocation:
        _cuda.cudaGetLastError()  # or it is reported again by the next call
        raise MemoryError("the GPU has no memory left")
    if status != _cuda.cudaError_t.cudaSuccess:
        name = getattr(function, "__name__", "a CUDA call")
        fix = "check the driver with nvidia-smi, or use another engine"
        if status == _cuda.cudaError_t.cudaErrorInsufficientDriver:
            fix = (
                "install a driver (CUDA 13 needs 580), or for older ones: pip install "
                "'tensorrt-cu12>=10.13,<11' 'cuda-bindings>=12.9,<13'"
            )
        raise EngineUnavailable(f"{name}: {status.name}", fix=fix)
    return results[0] if len(results) == 1 else tuple(results)


def select(device: str) -> Device:
    """Make a GPU this thread's, and say which it is.

    Args:
        device: `auto`, `cuda` or `cuda:N`.

    Raises:
        InvalidOption: another kind of device. EngineUnavailable: there is no such GPU.
    """
    number = number_of(device)
    use(number)
    found = call(_cuda.cudaGetDeviceProperties, number)
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Device(name, f"{found.major}.{found.minor}")


def use(number: int) -> None:
    """Make a GPU this thread's; CUDA keeps that per thread."""
    call(_cuda.cudaSetDevice, number)


def number_of(device: str) -> int:
    """The GPU's number in a device string."""
    kind, colon, number = device.partition(":")
    if kind not in ("auto", "cuda") or (colon and not number.isdigit()):
        raise InvalidOption(
            f"TensorRT does not run on device {device!r}", fix="use device='cuda' or 'cuda:N'"
        )
    return int(number or 0)


class Block:
    """Device memory and pinned host memory of one size, freed by `close`."""

    def __init__(self, nbytes: int) -> None:
        self.device: int = int(call(_cuda.cudaMalloc, nbytes))
        try:
            self._pinned: int = int(call(_cuda.cudaHostAlloc, nbytes, 0))
        except BaseException:
            _cuda.cudaFree(self.device)
            raise
        view = (ctypes.c_uint8 * nbytes).from_address(self._pinned)
        self.host: npt.NDArray[np.uint8] = np.ctypeslib.as_array(view)

    def upload(self, offset: int, nbytes: int, stream: int) -> None:
        """Queue a copy of part of the block to the device."""
        kind = _cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = self._pinned + offset
        call(_cuda.cudaMemcpyAsync, self.device + offset, source, nbytes, kind, stream)

    def download(self, offset: int, nbytes: int, stream: int) -> None:
        """Queue a copy of part of the block from the device."""
        kind = _cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = self._pinned + offset
        call(_cuda.cudaMemcpyAsync, target, self.device + offset, nbytes, kind, stream)

    def close(self) -> None:
        """Free both; safe to repeat."""
        if self.device:
            _cuda.cudaFree(self.device)
            _cuda.cudaFreeHost(self._pinned)
            self.device = 0


class Scratch:
    """Device memory, freed by `close`."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address: int = int(call(_cuda.cudaMalloc, max(1, nbytes)))

    def close(self) -> None:
        """Free it; safe to repeat."""
        if self.address:
            _cuda.cudaFree(self.address)
            self.address = 0


class Stream:
    """A stream, and graphs captured from it."""

    def __init__(self) -> None:
        self._stream = call(_cuda.cudaStreamCreateWithFlags, _cuda.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def wait(self) -> None:
        """Until everything queued is done."""
        call(_cuda.cudaStreamSynchronize, self._stream)

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """What `work` queues on this stream, as one graph."""
        # Thread-local: other threads may allocate meanwhile.
        mode = _cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(_cuda.cudaStreamBeginCapture, self._stream, mode)
        try:
            work()
        except BaseException:
            _, broken = _cuda.cudaStreamEndCapture(self._stream)
            if broken is not None and int(broken):
                _cuda.cudaGraphDestroy(broken)
            raise
        graph = call(_cuda.cudaStreamEndCapture, self._stream)
        try:
            return CapturedGraph(call(_cuda.cudaGraphInstantiate, graph, 0), self._stream)
        finally:
            _cuda.cudaGraphDestroy(graph)

    def close(self) -> None:
        """Destroy it; safe to repeat."""
        if self.handle:
            _cuda.cudaStreamDestroy(self._stream)
            self.handle = 0


class CapturedGraph:
    """A graph ready to be launched, destroyed by `close`."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        """Queue it."""
        call(_cuda.cudaGraphLaunch, self._graph, self._stream)

    def close(self) -> None:
        """Destroy it; safe to repeat."""
        if self._graph is not None:
            _cuda.cudaGraphExecDestroy(self._graph)
            self._graph = None
