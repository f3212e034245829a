"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, ExporterSpec, hookimpl


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The ONNX Runtime engine."""
    return [
        BackendSpec(
            name="onnxruntime",
            modes=frozenset({"disc"}),
            factory="ume_onnxruntime.engine:create",
            description="ONNX Runtime on a CPU, CUDA or TensorRT provider; disc, exported models",
            requires=("onnxruntime",),
            install="pip install 'onnxruntime>=1.22', or 'onnxruntime-gpu>=1.24.1' for a GPU",
            priority=20,
            can_load="ume_qwen.formats:exported",
            options="ume_onnxruntime.options:OnnxOptions",
        )
    ]


@hookimpl
def ume_exporters() -> list[ExporterSpec]:
    """The ONNX format."""
    return [
        ExporterSpec(
            name="onnx",
            description="the disc encoder as ONNX graphs, for ONNX Runtime",
            run="ume_onnxruntime.export:run",
            options="ume_onnxruntime.export:OnnxExportOptions",
        )
    ]
