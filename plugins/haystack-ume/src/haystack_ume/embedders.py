"""Components for pipelines: one for queries, one for documents with text, pictures or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from typing_extensions import Self

from ume_core import Embedder, Image, InvalidItem, InvalidOption, Item, ItemLike, Text, load
from ume_core.items import IMAGE_SUFFIXES, Part
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
            raise InvalidOption(f"mode {mode!r} has no single vector", fix="use disc or gen")
        self.model, self.engine = model, engine
        self.mode: Mode = mode
        self.instruction = instruction
        self.load_options = load_options or {}
        self._embedder: Embedder | None = None

    def warm_up(self) -> None:
        """Load the model; `run` does so too."""
        self.embedder()

    def embedder(self) -> Embedder:
        """The loaded model."""
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
        model, engine, load_options: as in `ume_core.load`. mode: `disc` or `gen`.
        instruction: task instruction.
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """The query's vector."""
        result = self.embedder().embed([text], mode=self.mode, instruction=self.instruction)
        return {"embedding": result.vectors(self.mode)[0].tolist()}


@component
class UmeDocumentEmbedder(_Loaded):
    """Embeds documents: their text, and a picture in `blob` or at `meta["file_path"]`.

    Args:
        model, engine, load_options: as in `ume_core.load`. mode: `disc` or `gen`.
        instruction: task instruction.
    """

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The documents with their vectors."""
        if not documents:
            return {"documents": []}
        items: list[ItemLike] = [_item(i, document) for i, document in enumerate(documents)]
        result = self.embedder().embed(items, mode=self.mode, instruction=self.instruction)
        vectors = result.vectors(self.mode)
        return {
            "documents": [
                replace(document, embedding=vector.tolist())
                for document, vector in zip(documents, vectors, strict=True)
            ]
        }


def _item(index: int, document: Document) -> Item:
    parts: list[Part] = []
    blob, path = document.blob, document.meta.get("file_path")
    if blob is not None and (blob.mime_type or "image/").startswith("image/"):
        parts.append(Image(blob.data))
    elif isinstance(path, str) and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        parts.append(Image(Path(path)))
    if document.content:
        parts.append(Text(document.content))
    if not parts:
        raise InvalidItem(
            f"document {index} ({document.id}) has neither text nor a picture",
            fix="give it content, a blob, or a picture at meta['file_path']",
        )
    return Item(tuple(parts))
