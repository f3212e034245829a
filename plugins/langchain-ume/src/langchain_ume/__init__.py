"""LangChain embeddings with UME-R1."""

from langchain_ume.embeddings import UmeEmbeddings

__all__ = ["UmeEmbeddings"]
