"""The published checkpoints by name, whichever engine or exporter is asked for them."""

from __future__ import annotations

from ume_core.hookspecs import ModelSpec, hookimpl

_2B, _7B = "zhibinlan/UME-R1-2B", "zhibinlan/UME-R1-7B"


@hookimpl
def ume_models() -> list[ModelSpec]:
    """The published checkpoints, under the conventions they were trained and evaluated with."""
    return [
        ModelSpec("ume-r1", _2B, "the published model: the same as ume-r1-2b", "official"),
        ModelSpec("ume-r1-2b", _2B, "published, 2.2 B parameters, 4.4 GB", "official"),
        ModelSpec("ume-r1-7b", _7B, "published, 8.3 B parameters, 16.6 GB", "official"),
    ]
