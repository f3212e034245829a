"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, ModelSpec, hookimpl


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The PyTorch engine."""
    return [
        BackendSpec(
            name="torch",
            modes=frozenset({"disc", "gen", "both"}),
            factory="ume_torch.engine:create",
            description="PyTorch on a CPU or CUDA device; disc and gen",
            requires=("torch", "transformers"),
            install="pip install ume-torch",
            priority=10,
        )
    ]


@hookimpl
def ume_models() -> list[ModelSpec]:
    """The published checkpoints."""
    return [
        ModelSpec("ume-r1", "zhibinlan/UME-R1-2B", "the published model: the same as ume-r1-2b"),
        ModelSpec("ume-r1-2b", "zhibinlan/UME-R1-2B", "published, 2.2 B parameters, 4.4 GB"),
        ModelSpec("ume-r1-7b", "zhibinlan/UME-R1-7B", "published, 8.3 B parameters, 16.6 GB"),
    ]
