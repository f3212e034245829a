"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, CommandSpec, hookimpl


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
            install="pip install onnxruntime (or onnxruntime-gpu)",
            priority=20,
            can_load="ume_qwen.formats:exported",
            options="ume_onnxruntime.options:OnnxOptions",
        )
    ]


@hookimpl
def ume_commands() -> list[CommandSpec]:
    """`ume export`."""
    return [
        CommandSpec(
            name="export",
            help="export a model's disc encoder to ONNX",
            arguments="ume_onnxruntime.export_command:arguments",
            run="ume_onnxruntime.export_command:run",
        )
    ]
