"""The PyTorch engine of UME-R1."""

from ume_torch.engine import TorchEmbedder

__all__ = ["TorchEmbedder"]
