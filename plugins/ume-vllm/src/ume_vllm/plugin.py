"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, hookimpl


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The vLLM engine."""
    return [
        BackendSpec(
            name="vllm",
            modes=frozenset({"disc", "gen", "both"}),
            factory="ume_vllm.engine:create",
            description="vLLM, in this process; disc and gen",
            requires=("vllm",),
            install="pip install vllm; for a CPU see the engine's README",
            can_load="ume_qwen.formats:checkpoint",
            options="ume_vllm.options:VllmOptions",
            priority=5,
        ),
        BackendSpec(
            name="vllm-server",
            modes=frozenset({"disc", "gen", "both"}),
            factory="ume_vllm.engine:create_served",
            description="a running `vllm serve`, by its URL; disc and gen",
            requires=("urllib3",),
            install="pip install urllib3",
            can_load="ume_qwen.formats:checkpoint",
            options="ume_vllm.options:ServerOptions",
            priority=-10,  # by name, or by its option engine_url: it needs one
        ),
    ]
