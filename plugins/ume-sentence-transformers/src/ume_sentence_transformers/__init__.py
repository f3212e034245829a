"""UME-R1 in sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ume_sentence_transformers.module import load
    from ume_sentence_transformers.native import save

__all__ = ["load", "save"]


def __getattr__(name: str) -> Any:
    """Import on first use: plugin discovery must stay light."""
    if name == "load":
        from ume_sentence_transformers.module import load

        return load
    if name == "save":
        from ume_sentence_transformers.native import save

        return save
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
