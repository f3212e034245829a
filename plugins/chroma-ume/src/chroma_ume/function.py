"""`UmeEmbeddingFunction`: documents and images in one Chroma collection."""

from __future__ import annotations

import json
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from chromadb.api.types import Embeddable, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from ume_core import Embedder, Image, ItemLike, load
from ume_core.errors import InvalidItem, InvalidOption
from ume_core.signature import Mode


@register_embedding_function
class UmeEmbeddingFunction(EmbeddingFunction[Embeddable]):
    """UME-R1 embeddings; importing this module lets Chroma restore collections that used it."""

    def __init__(
        self,
        model: str = "ume-r1",
        mode: Mode = "disc",
        engine: str = "auto",
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        load_options: dict[str, Any] | None = None,
    ) -> None:
        """See `ume_core.load`; `load_options` are plain values, since Chroma stores them.

        The model is loaded at the first use, and once for all functions of the same settings:
        Chroma builds a collection's function anew for every call.
        """
        if mode not in ("disc", "gen"):
            raise InvalidOption(f"mode is {mode!r}", fix="use disc or gen, which are one vector")
        self.model, self.engine = model, engine
        self.mode: Mode = mode
        self.query_instruction = query_instruction
        self.document_instruction = document_instruction
        self.load_options = load_options or {}
        try:
            self._key = json.dumps([model, engine, self.load_options], sort_keys=True)
        except TypeError as error:
            raise InvalidOption(
                f"Chroma stores plain values, and {error}", fix="use strings and numbers"
            ) from error

    def __call__(self, input: Embeddable) -> Embeddings:
        """Vectors of documents (strings) or images (arrays)."""
        return self._embed(input, self.document_instruction)

    def embed_query(self, input: Embeddable) -> Embeddings:
        """Vectors of queries."""
        return self._embed(input, self.query_instruction)

    def _embed(self, values: Any, instruction: str | None) -> Embeddings:
        one_image = isinstance(values, np.ndarray) and values.ndim < 4
        if isinstance(values, str) or (one_image and values.dtype != object):
            raise InvalidItem("this is one document, not a list of them", fix="wrap it in a list")
        if not len(values):
            return []
        items: list[ItemLike] = [
            Image(np.asarray(v)) if isinstance(v, (np.ndarray, list)) else v for v in values
        ]
        with _loading:
            embedder = _loaded(self._key)
        result = embedder.embed(items, mode=self.mode, instruction=instruction)
        return list(result.vectors(self.mode))

    @staticmethod
    def name() -> str:
        """Its name in a collection's configuration."""
        return "ume"

    def default_space(self) -> Space:
        """Cosine: vectors are of unit length."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """All mean the same order on unit vectors."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """Plain values, from which `build_from_config` makes the same function."""
        return {
            "model": self.model, "mode": self.mode, "engine": self.engine,
            "query_instruction": self.query_instruction,
            "document_instruction": self.document_instruction,
            "load_options": self.load_options,
        }  # fmt: skip

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> UmeEmbeddingFunction:
        """The function of a stored collection."""
        return UmeEmbeddingFunction(**config)

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Refuse what would mix vectors of two kinds in one collection."""
        for key in ("model", "mode", "load_options", "document_instruction"):
            if old_config.get(key) != new_config.get(key):
                raise ValueError(
                    f"a collection's {key} cannot change from {old_config.get(key)!r} to "
                    f"{new_config.get(key)!r}. Fix: make a new collection"
                )


_loading = threading.Lock()  # or two first callers load it twice


@lru_cache(maxsize=4)
def _loaded(key: str) -> Embedder:
    model, engine, options = json.loads(key)
    return load(model, engine=engine, **options)
