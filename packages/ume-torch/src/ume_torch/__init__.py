"""The PyTorch engine of UME-R1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ume_torch.engine import TorchEmbedder

__all__ = ["TorchEmbedder"]


def __getattr__(name: str) -> Any:
    """Import the engine, and with it torch, on first use: plugin discovery must stay light."""
    if name == "TorchEmbedder":
        from ume_torch.engine import TorchEmbedder

        return TorchEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
