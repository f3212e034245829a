"""What a place holds, told before anything heavy is imported: for `BackendSpec.can_load`.

Each function returns None if an engine of that kind may load the place, else why it does not; the
engine itself says what is wrong with a bad one.
"""

from __future__ import annotations

import re
from pathlib import Path

MANIFEST = "ume_export.json"  # what an exported directory says about itself


def checkpoint(model: str | Path, device: str) -> str | None:  # noqa: ARG001
    """A checkpoint in the published layout, or a hub id: weights, not exported graphs."""
    if is_export(model):
        return "loads checkpoints, not exported graphs"
    if Path(model).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        return None
    return f"finds no checkpoint directory {str(model)!r}, and that is not a hub id"


def exported(model: str | Path, device: str) -> str | None:  # noqa: ARG001
    """A directory that `ume export` wrote."""
    return None if is_export(model) else "loads what `ume export` wrote"


def is_export(model: str | Path) -> bool:
    """Whether a directory holds exported graphs."""
    return (Path(model) / MANIFEST).is_file()
