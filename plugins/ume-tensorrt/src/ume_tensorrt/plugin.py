"""What this distribution registers."""

from __future__ import annotations

from pathlib import Path

from ume_core.hookspecs import BackendSpec, ExporterSpec, hookimpl
from ume_tensorrt.names import FOLDER, NAME


def can_load(model: str | Path, device: str) -> str | None:
    """Whether a directory holds engines, and a GPU was asked for."""
    if device == "cpu":
        return "needs a GPU, and device='cpu' was asked for"
    built = (Path(model) / FOLDER / NAME).is_file()
    return None if built else "loads directories with engines that `ume export` built"


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The TensorRT engine."""
    return [
        BackendSpec(
            name="tensorrt",
            modes=frozenset({"disc"}),
            factory="ume_tensorrt.engine:create",
            description="native TensorRT engines on an NVIDIA GPU; disc, built from an export",
            requires=("tensorrt", "cuda.bindings"),
            install="pip install tensorrt-cu13==10.16.1.11 cuda-bindings",
            priority=30,
            check="ume_qwen.devices:missing_gpu",
            can_load="ume_tensorrt.plugin:can_load",
            options="ume_tensorrt.options:TensorRTOptions",
        )
    ]


@hookimpl
def ume_exporters() -> list[ExporterSpec]:
    """The TensorRT format."""
    return [
        ExporterSpec(
            name="tensorrt",
            description="ONNX graphs and TensorRT engines built from them on this GPU",
            run="ume_tensorrt.export:run",
            options="ume_tensorrt.export:TensorRTExportOptions",
        )
    ]
