"""The published checkpoints by name, whichever engine or exporter is asked for them."""

from __future__ import annotations

from ume_core.hookspecs import ModelSpec, hookimpl


@hookimpl
def ume_models() -> list[ModelSpec]:
    """The published checkpoints."""
    return [
        ModelSpec("ume-r1", "zhibinlan/UME-R1-2B", "the published model: the same as ume-r1-2b"),
        ModelSpec("ume-r1-2b", "zhibinlan/UME-R1-2B", "published, 2.2 B parameters, 4.4 GB"),
        ModelSpec("ume-r1-7b", "zhibinlan/UME-R1-7B", "published, 8.3 B parameters, 16.6 GB"),
    ]
