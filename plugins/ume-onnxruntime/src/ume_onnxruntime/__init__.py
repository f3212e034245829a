"""UME-R1's disc embeddings on ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ume_onnxruntime.engine import OnnxEmbedder

__all__ = ["OnnxEmbedder"]


def __getattr__(name: str) -> Any:
    """Import the engine, and with it onnxruntime, on first use."""
    if name == "OnnxEmbedder":
        from ume_onnxruntime.engine import OnnxEmbedder

        return OnnxEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
