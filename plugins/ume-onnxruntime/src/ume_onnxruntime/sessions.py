"""ONNX Runtime sessions: which provider, which options, and running a graph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ume_core.errors import CheckpointError, InvalidOption
from ume_core.hookspecs import has_gpu
from ume_core.qwen.graphs import Arrays

_log = logging.getLogger(__name__)
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# ONNX Runtime keeps arithmetic on shapes on the CPU, on purpose. These compute on numbers.
_COMPUTING = frozenset(
    "Erf FusedMatMul Gelu Gemm LayerNormalization MatMul QuickGelu ReduceMean Sigmoid"
    " SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization"
    " Softmax".split()
)


def choose_provider(provider: str, device: str) -> str:
    """A key of `PROVIDERS`.

    Raises:
        InvalidOption: no such provider, or this build or machine does not have it.
    """
    if provider == "auto":
        kind = device.split(":")[0]
        if kind == "auto":
            usable = ort.get_available_providers()
            return "cuda" if PROVIDERS["cuda"] in usable and has_gpu() else "cpu"
        provider = kind
    elif device != "auto" and (device == "cpu") != (provider == "cpu"):
        raise InvalidOption(
            f"provider {provider!r} does not run on device {device!r}", fix="name one of the two"
        )
    if provider not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise InvalidOption(f"unknown provider {provider!r}", fix=f"use auto, {known}")
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise InvalidOption(
            f"this onnxruntime {ort.__version__} has no {provider} provider",
            fix="pip install onnxruntime-gpu (TensorRT: the 10.16 line, tensorrt-cu13 10.16.1.11; "
            "pip's newest tensorrt is 11.x, which it cannot load)",
        )
    if provider != "cpu" and not has_gpu():
        raise InvalidOption(
            f"provider {provider!r} needs an NVIDIA GPU, and this machine has none",
            fix="use provider='cpu'",
        )
    if provider != "cpu" and not hasattr(
        ort.InferenceSession, "get_provider_graph_assignment_info"
    ):
        raise InvalidOption(
            f"onnxruntime {ort.__version__} does not say where it computes",
            fix="pip install 'onnxruntime-gpu>=1.24.1'",
        )
    if provider == "tensorrt":
        _check_tensorrt(installed_tensorrt())
    if provider != "cpu":
        _load_libraries(provider)
    return provider


def _load_libraries(provider: str) -> None:
    """Those that pip installed, which the system's loader does not look for."""
    with redirect_stdout(sys.stderr):  # what it could not find; the session then says it, too
        ort.preload_dlls()
    if provider == "tensorrt":
        with suppress(ImportError):  # it may also come with the system
            import_module("tensorrt")


def installed_tensorrt() -> str | None:
    """Version of the TensorRT that pip installed, or None; it may also come with the system."""
    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _check_tensorrt(found: str | None) -> None:
    """Refuse a TensorRT that the provider of PyPI's onnxruntime-gpu cannot load.

    Raises:
        InvalidOption: it is not of the line that onnxruntime-gpu 1.30 and 1.31 link
            (`readelf -d libonnxruntime_providers_tensorrt.so`: libnvinfer.so.10).
    """
    if found is not None and not found.startswith("10."):
        raise InvalidOption(
            f"TensorRT {found} is installed, and onnxruntime {ort.__version__}'s provider links 10",
            fix="pip install tensorrt-cu13==10.16.1.11, or use engine='tensorrt'",
        )


def _device_number(device: str) -> int:
    _, colon, number = device.partition(":")
    if colon and not number.isdigit():
        raise InvalidOption(f"unknown device {device!r}", fix="use auto, cpu, cuda or cuda:N")
    return int(number or 0)


class Graph:
    """One graph, loaded. Thread-safe, as ONNX Runtime's sessions are."""

    def __init__(self, path: Path, provider: str, device: str, cache: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Or one graph's idle threads spin beside the other graph's, and beside image decoding: a
        # third of an image's time on two cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._cuda = provider != "cpu"
        number = _device_number(device)
        chain: list[Any] = []
        if self._cuda:
            # Full float32: the vectors' signature says so.
            chain.append((PROVIDERS["cuda"], {"device_id": number, "use_tf32": 0}))
            # Not `session.disable_cpu_ep_fallback`, which refuses arithmetic on shapes, too.
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider == "tensorrt":
            settings = tensorrt_settings(number, cache)
            chain.insert(0, (PROVIDERS["tensorrt"], settings))
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=chain or [PROVIDERS["cpu"]]
            )
        except Exception as error:  # its errors have no common base
            if self._cuda:  # the graph itself passed on a CPU when it was exported
                raise InvalidOption(
                    f"the {provider} provider does not run {path} here: {error}",
                    fix="check the CUDA 13 and cuDNN 9 libraries (pip install "
                    "'onnxruntime-gpu[cuda,cudnn]') and the driver, or use provider='cpu'",
                ) from error
            raise CheckpointError(
                f"{path} cannot be loaded by onnxruntime {ort.__version__}: {error}",
                fix="export again, or use another precision",
            ) from error
        used = self._session.get_providers()
        if provider != "cpu" and used[0] != PROVIDERS[provider]:
            raise InvalidOption(
                f"the {provider} provider did not start here (onnxruntime fell back to {used[0]})",
                fix="check the CUDA and TensorRT libraries, or use provider='cpu'",
            )
        if self._cuda:
            self._check_places(path, provider)
        self._output = self._session.get_outputs()[0].name

    def _check_places(self, path: Path, provider: str) -> None:
        """No node that computes runs on the CPU unsaid.

        Raises:
            InvalidOption: some do.
        """
        found = computing_on_cpu(self._session.get_provider_graph_assignment_info())
        if found:
            raise InvalidOption(
                f"the {provider} provider leaves {', '.join(found)} of {path} to the CPU",
                fix="use a newer onnxruntime-gpu, another precision, or provider='cpu'",
            )

    def __call__(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """The graph's one output."""
        if not self._cuda:
            return np.asarray(self._session.run([self._output], arrays)[0], dtype=np.float32)
        binding = self._session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        binding.bind_output(self._output)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]


def tensorrt_settings(number: int, cache: Path) -> dict[str, Any]:
    """Options of the TensorRT provider on one device; precision is in the graph.

    Args:
        cache: where engines and timings are kept; on a read-only disk they are built at each start.
    """
    # Or weights travel in one message, which ends at 2 GB.
    settings: dict[str, Any] = {"device_id": number, "trt_load_user_initializer": True}
    try:
        cache.mkdir(exist_ok=True)
    except OSError as error:
        _log.debug("TensorRT engines are not kept: %s", error)
        return settings
    for kind in ("engine", "timing"):
        settings |= {f"trt_{kind}_cache_enable": True, f"trt_{kind}_cache_path": str(cache)}
    return settings


def computing_on_cpu(assigned: Iterable[Any]) -> list[str]:
    """Operators on numbers, not on shapes, that were assigned to the CPU provider.

    Args:
        assigned: as `InferenceSession.get_provider_graph_assignment_info` (1.24.1) returns it.
    """
    on_cpu = [part for part in assigned if part.ep_name == PROVIDERS["cpu"]]
    return sorted({n.op_type for part in on_cpu for n in part.get_nodes()} & _COMPUTING)
