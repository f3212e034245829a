"""Chroma embedding function with UME-R1."""

from chroma_ume.function import UmeEmbeddingFunction

__all__ = ["UmeEmbeddingFunction"]
