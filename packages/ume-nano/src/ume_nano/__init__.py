"""The embedded default model, in the published checkpoint layout. See `path() / "README.md"`."""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """The checkpoint's directory."""
    return Path(__file__).parent / "model"
