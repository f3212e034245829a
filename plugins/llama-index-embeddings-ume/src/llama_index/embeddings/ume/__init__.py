"""LlamaIndex multi-modal embeddings with UME-R1."""

from llama_index.embeddings.ume.base import UmeEmbedding

__all__ = ["UmeEmbedding"]
