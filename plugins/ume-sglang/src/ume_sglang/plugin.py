"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import BackendSpec, hookimpl


@hookimpl
def ume_backends() -> list[BackendSpec]:
    """The SGLang engine."""
    return [
        BackendSpec(
            name="sglang",
            modes=frozenset({"disc", "gen", "both"}),
            factory="ume_sglang.engine:create",
            description="SGLang, in this process and its children; disc and gen; not run yet",
            requires=("sglang",),
            install="pip install sglang==0.5.23, in an environment of its own with a GPU",
            can_load="ume_qwen.formats:checkpoint",
            options="ume_sglang.options:SglangOptions",
            priority=4,
        )
    ]
