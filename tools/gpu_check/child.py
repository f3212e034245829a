"""The process of a stage; the one that starts it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def child(
    name: str,
    device: str,
    small: bool,
    cache: Path,
    out: Path,
    about: dict[str, Any],
    seconds: float,
) -> None:
    """Run one stage."""
    from tools.gpu_check.place import Place
    from tools.gpu_check.stages import run_stage

    run_stage(name, Place(device, small, cache), out, about, seconds)
