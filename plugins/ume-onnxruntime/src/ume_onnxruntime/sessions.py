"""ONNX Runtime sessions: which provider, which options, and running a graph."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ume_core.errors import CheckpointError, InvalidOption
from ume_core.hookspecs import has_gpu
from ume_core.qwen.graphs import Arrays

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


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
    if provider == "tensorrt":
        _check_tensorrt(installed_tensorrt())
    return provider


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
            # Full float32: the vectors' signature says so. And no node runs elsewhere unsaid.
            chain.append((PROVIDERS["cuda"], {"device_id": number, "use_tf32": 0}))
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if provider == "tensorrt":
            cache.mkdir(exist_ok=True)
            settings: dict[str, Any] = {
                "device_id": number,
                # Precision is in the graph; engines and timings are kept beside it.
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(cache),
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": str(cache),
            }
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
        self._output = self._session.get_outputs()[0].name

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
