"""Haystack embedders with UME-R1."""

from haystack_ume.embedders import UmeDocumentEmbedder, UmeTextEmbedder

__all__ = ["UmeDocumentEmbedder", "UmeTextEmbedder"]
