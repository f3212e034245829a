"""`UmeEmbedding`: texts and images by LlamaIndex's interface."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.schema import ImageType

from ume_core import Embedder, Image, InvalidOption, ItemLike, as_items, load
from ume_core.embedder import require_mode


class UmeEmbedding(MultiModalEmbedding):
    """UME-R1 embeddings.

    Example:
        ```python
        from llama_index.embeddings.ume import UmeEmbedding

        embedding = UmeEmbedding(model_name="ume-nano")
        vector = embedding.get_text_embedding("a red apple")
        picture = embedding.get_image_embedding("apple.png")
        ```
    """

    model_name: str = Field(default="ume-r1", description="Alias, directory or hub id.")
    mode: Literal["disc", "gen"] = Field(default="disc", description="Kind of embedding.")
    engine: str = Field(default="auto", description="See `ume plugins`.")
    query_instruction: str | None = Field(default=None, description="Instruction for queries.")
    text_instruction: str | None = Field(default=None, description="Instruction for documents.")
    load_options: dict[str, Any] = Field(
        default_factory=dict, description="Fields of ume_core.LoadOptions."
    )

    _embedder: Embedder = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        """The model is loaded at once.

        Raises:
            InvalidOption: a name that is no field; LlamaIndex would pass over it.
        """
        unknown = sorted(set(fields) - set(type(self).model_fields))
        if unknown:
            own = ", ".join(n for n in UmeEmbedding.__annotations__ if not n.startswith("_"))
            raise InvalidOption(f"unknown argument {unknown[0]!r}", fix=f"use: {own}")
        super().__init__(**fields)
        self._embedder = load(self.model_name, engine=self.engine, **self.load_options)
        require_mode(self.mode, self._embedder.modes, self._embedder.name, self.model_name)

    @classmethod
    def class_name(cls) -> str:
        """Its name in serialised pipelines."""
        return "UmeEmbedding"

    def _embed(self, items: Sequence[ItemLike], instruction: str | None) -> list[Embedding]:
        if not items:
            return []
        result = self._embedder.embed(items, mode=self.mode, instruction=instruction)
        return result.vectors(self.mode).tolist()

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Vectors of texts, batch by batch; all are looked at before the first is computed."""
        as_items(texts)
        return super().get_text_embedding_batch(texts, show_progress, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """`get_text_embedding_batch` in threads."""
        as_items(texts)
        return await super().aget_text_embedding_batch(texts, show_progress, **kwargs)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed([text], self.text_instruction)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(texts, self.text_instruction)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed([query], self.query_instruction)[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._embed([_image(s) for s in img_file_paths], self.text_instruction)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


def _image(source: Any) -> Image:
    if isinstance(source, BytesIO):
        return Image(source.getvalue())
    if not isinstance(source, str):
        return Image(source)  # which says what it takes
    url = "://" in source or source[:5].lower() == "data:"
    return Image(source if url else Path(source))
