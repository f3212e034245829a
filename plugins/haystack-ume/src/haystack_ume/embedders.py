"""Components for pipelines: one for queries, one for documents with text, pictures or both."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from typing_extensions import Self

from ume_core import (
    Embedder,
    Image,
    InvalidItem,
    InvalidOption,
    Item,
    ItemLike,
    Text,
    UmeError,
    Video,
    load,
)
from ume_core.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Part
from ume_core.signature import Mode


class _Loaded:
    """Settings, and the model once it is needed."""

    def __init__(
        self,
        model: str = "ume-r1",
        mode: Mode = "disc",
        engine: str = "auto",
        instruction: str | None = None,
        load_options: dict[str, Any] | None = None,
    ) -> None:
        if mode not in ("disc", "gen"):
            raise InvalidOption(f"mode is {mode!r}", fix="use disc or gen, which are one vector")
        self.model, self.engine = model, engine
        self.mode: Mode = mode
        self.instruction = instruction
        self.load_options = load_options or {}
        self._embedder: Embedder | None = None
        self._loading = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: a copy loads the model again."""
        return {k: v for k, v in vars(self).items() if k not in ("_embedder", "_loading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From `__getstate__`'s form."""
        vars(self).update(state, _embedder=None, _loading=threading.Lock())

    def warm_up(self) -> None:
        """Load the model; `run` does so too."""
        self.embedder()

    async def warm_up_async(self) -> None:
        """`warm_up` in a thread."""
        await asyncio.to_thread(self.warm_up)

    def embedder(self) -> Embedder:
        """The loaded model."""
        with self._loading:
            if self._embedder is None:
                self._embedder = load(self.model, engine=self.engine, **self.load_options)
        return self._embedder

    def to_dict(self) -> dict[str, Any]:
        """Settings, for a pipeline's YAML."""
        return default_to_dict(
            self, model=self.model, mode=self.mode, engine=self.engine,
            instruction=self.instruction, load_options=self.load_options,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From `to_dict`'s form."""
        return default_from_dict(cls, data)


@component
class UmeTextEmbedder(_Loaded):
    """Embeds a query.

    Args:
        model, engine, load_options: as in `ume_core.load`.
        mode: `disc` or `gen`.
        instruction: task instruction.
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """The query's vector."""
        result = self.embedder().embed([text], mode=self.mode, instruction=self.instruction)
        return {"embedding": result.vectors(self.mode)[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """`run` in a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class UmeDocumentEmbedder(_Loaded):
    """Embeds documents: their text, and a picture or clip in `blob` or at the path in `meta`.

    Args:
        model, engine, load_options: as in `ume_core.load`.
        mode: `disc` or `gen`.
        instruction: task instruction.
        file_path_meta_field: where in `meta` the file's path is, as converters write it.
        root_path: the folder that relative paths start from.
    """

    def __init__(
        self,
        model: str = "ume-r1",
        mode: Mode = "disc",
        engine: str = "auto",
        instruction: str | None = None,
        load_options: dict[str, Any] | None = None,
        file_path_meta_field: str = "file_path",
        root_path: str = "",
    ) -> None:
        # Not `super()`: the decorator makes another class of this one.
        _Loaded.__init__(self, model, mode, engine, instruction, load_options)
        self.file_path_meta_field, self.root_path = file_path_meta_field, root_path

    def to_dict(self) -> dict[str, Any]:
        """Settings, for a pipeline's YAML."""
        stored = _Loaded.to_dict(self)
        stored["init_parameters"] |= {
            "file_path_meta_field": self.file_path_meta_field,
            "root_path": self.root_path,
        }
        return stored

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """`run` in a thread."""
        return await asyncio.to_thread(self.run, documents)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The documents with their vectors."""
        if not documents:
            return {"documents": []}
        documents = list(documents)
        items: list[ItemLike] = [self._item(i, document) for i, document in enumerate(documents)]
        result = self.embedder().embed(items, mode=self.mode, instruction=self.instruction)
        vectors = result.vectors(self.mode)
        return {
            "documents": [
                replace(document, embedding=vector.tolist())
                for document, vector in zip(documents, vectors, strict=True)
            ]
        }

    def _item(self, index: int, document: Document) -> Item:
        parts: list[Part] = []
        try:
            media = self._media(document)
            if media is not None:
                parts.append(media)
            if document.content and document.content.strip():
                parts.append(Text(document.content))
            if not parts:
                raise InvalidItem(
                    f"document {document.id} has neither text nor a picture",
                    fix="give it content, a blob, or a picture or clip at meta['file_path']",
                )
            return Item(tuple(parts))
        except UmeError as error:
            raise error.at(index) from None

    def _media(self, document: Document) -> Image | Video | None:
        """What is in `blob`, or at the path in `meta`; other kinds are only named there."""
        blob, path = document.blob, document.meta.get(self.file_path_meta_field)
        if blob is not None:
            kind = (blob.mime_type or "image/").partition("/")[0]
            if kind in ("image", "video"):
                return Image(blob.data) if kind == "image" else Video(blob.data)
        if isinstance(path, (str, Path)):
            path = Path(self.root_path, path)
            suffix = path.suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                return Image(path)
            if suffix in VIDEO_SUFFIXES:
                return Video(path)
        return None
