"""What a place holds, told before anything heavy is imported: for `BackendSpec.can_load`.

Each function returns None if an engine of that kind may load the place, else why it does not. A
name that is not a directory may be a hub id; the engine itself says what is wrong with a bad one.
"""

from __future__ import annotations

from pathlib import Path

MANIFEST = "ume_export.json"  # what an exported directory says about itself


def checkpoint(model: str | Path, device: str) -> str | None:  # noqa: ARG001
    """A checkpoint in the published layout: weights, not exported graphs."""
    return "loads checkpoints, not exported graphs" if is_export(model) else None


def exported(model: str | Path, device: str) -> str | None:  # noqa: ARG001
    """A directory that `ume export` wrote."""
    return None if is_export(model) else "loads what `ume export` wrote"


def is_export(model: str | Path) -> bool:
    """Whether a directory holds exported graphs."""
    return (Path(model) / MANIFEST).is_file()
