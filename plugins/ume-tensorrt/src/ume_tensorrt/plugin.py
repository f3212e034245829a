"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, hookimpl


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
            serves="engines",
            gpu=True,
        )
    ]
