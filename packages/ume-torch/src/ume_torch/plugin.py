"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, hookimpl


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The PyTorch engine."""
    return [
        BackendSpec(
            name="torch",
            modes=frozenset({"disc", "gen", "both"}),
            factory="ume_torch.engine:create",
            can_load="ume_qwen.formats:checkpoint",
            options="ume_torch.options:TorchOptions",
            description="PyTorch on a CPU or CUDA device; disc and gen",
            requires=("torch", "transformers"),
            install="pip install 'torch>=2.6' 'transformers>=4.57,<6'",
            priority=10,
        )
    ]
