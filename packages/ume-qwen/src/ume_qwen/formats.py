"""What a place holds, told before anything heavy is imported: for `BackendSpec.can_load`.

Each function returns None if an engine of that kind may load the place, else why it does not; the
engine itself says what is wrong with a bad one.
"""

from __future__ import annotations

import re
from pathlib import Path

from ume_qwen.devices import has_gpu

MANIFEST = "ume_export.json"  # what an exported directory says about itself


def checkpoint(model: str | Path, device: str) -> str | None:  # noqa: ARG001
    """A checkpoint in the published layout, or a hub id; graphs may stand beside its weights."""
    if is_export(model) and not has_weights_beside(model):
        return "loads checkpoints, not exported graphs"
    if Path(model).is_file():  # which another engine may load
        return "loads directories of a checkpoint, not a file"
    if Path(model).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        return None
    return f"finds no checkpoint directory {str(model)!r}, and that is not a hub id"


def exported(model: str | Path, device: str) -> str | None:
    """A directory that `ume export` wrote.

    Where the weights stand beside the graphs, as in ume-nano, the graphs are for CPUs: a GPU has
    the engine that loads the weights.
    """
    if not is_export(model):
        return "loads what `ume export` wrote"
    on_cpu = device == "cpu" or (device == "auto" and not has_gpu())
    if has_weights_beside(model) and not on_cpu:
        return "leaves models that have their weights beside the graphs to the GPU's engine"
    return None


def is_export(model: str | Path) -> bool:
    """Whether a directory holds exported graphs."""
    return (Path(model) / MANIFEST).is_file()


def has_weights_beside(model: str | Path) -> bool:
    """Whether a directory holds a checkpoint's weights, exported graphs or not."""
    return any(Path(model).glob("*.safetensors"))
