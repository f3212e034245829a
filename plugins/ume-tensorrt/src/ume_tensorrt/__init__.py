"""UME-R1's disc embeddings on native TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ume_tensorrt.engine import TensorRTEmbedder

__all__ = ["TensorRTEmbedder"]


def __getattr__(name: str) -> Any:
    """Import the engine, and with it TensorRT, on first use."""
    if name == "TensorRTEmbedder":
        from ume_tensorrt.engine import TensorRTEmbedder

        return TensorRTEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
