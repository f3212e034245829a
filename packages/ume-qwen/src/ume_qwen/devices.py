"""Which devices this machine has, without a framework."""

from __future__ import annotations

from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a device: Linux' own, or WSL's."""
    # A container may hold any one of a machine's devices, so not by the number 0.
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))


def missing_gpu() -> str | None:
    """Why an engine that needs an NVIDIA GPU cannot run here, or None."""
    return None if has_gpu() else "needs an NVIDIA GPU"
