"""What this distribution registers."""

from __future__ import annotations

from ume_core.hookspecs import ModelSpec, hookimpl


@hookimpl
def ume_models() -> list[ModelSpec]:
    """The embedded model."""
    return [ModelSpec("ume-nano", "ume_nano:path", "embedded, about 5 M parameters, pictograms")]
