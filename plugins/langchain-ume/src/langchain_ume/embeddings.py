"""`UmeEmbeddings`: texts by LangChain's interface; pictures, clips and messages beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Self

from ume_core import Embedder, Image, ItemLike, Video, load
from ume_core.embedder import require_mode
from ume_core.items import check_batch


class UmeEmbeddings(BaseModel, Embeddings):
    """UME-R1 embeddings.

    Example:
        ```python
        from langchain_ume import UmeEmbeddings

        embeddings = UmeEmbeddings(model="ume-nano")
        vector = embeddings.embed_query("a red apple")
        pictures = embeddings.embed_image(["apple.png", "dog.png"])
        ```

    Queries and documents may be embedded in different modes only where the model card declares
    that disc and gen share one space; otherwise construction fails. pydantic wraps most errors of
    construction in its `ValidationError` (a `ValueError`), whose text names the cause and the fix.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), frozen=True)

    model: str = "ume-r1"
    """An alias (`ume models`), checkpoint directory, hub id or exported directory."""
    mode: Literal["disc", "gen"] = "disc"
    """Of documents, and of queries unless `query_mode` says otherwise."""
    query_mode: Literal["disc", "gen"] | None = None
    """Mode of queries."""
    engine: str = "auto"
    """See `ume plugins`."""
    query_instruction: str | None = None
    """Task instruction for queries."""
    document_instruction: str | None = None
    """Task instruction for documents."""
    load_options: dict[str, Any] = Field(default_factory=dict)
    """Fields of `ume_core.LoadOptions`, such as `{"device": "cuda"}`."""

    _embedder: Embedder = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._embedder = load(self.model, engine=self.engine, **self.load_options)
        for mode in {self.mode, self.query_mode or self.mode}:
            require_mode(mode, self._embedder.modes, self._embedder.name, self.model)
        asked = self._embedder.signature(self.query_mode or self.mode)
        asked.check(self._embedder.signature(self.mode))
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Shares the loaded model, to which nothing is written."""
        del memo
        return self.model_copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Settings only: another process loads the model again."""
        return partial(type(self), **{n: getattr(self, n) for n in type(self).model_fields}), ()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts."""
        return self.embed_items(texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return self._embed([text], self.query_mode or self.mode, self.query_instruction)[0]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Vectors of pictures by path, `file://`, `http(s)://` or `data:` URL.

        Vector stores look for a method of this name: `Chroma.add_images` and
        `similarity_search_by_image`, and those of LanceDB, SingleStoreDB and VDMS.
        """
        check_batch(uris)
        return self.embed_items([Image(uri) for uri in uris])

    def embed_video(self, paths: list[str]) -> list[list[float]]:
        """Vectors of clips by path or URL; VDMS looks for a method of this name."""
        check_batch(paths)
        return self.embed_items([Video(path) for path in paths])

    def embed_items(self, items: Sequence[ItemLike]) -> list[list[float]]:
        """Vectors of documents in any spelling: pictures, clips, several of them, messages."""
        return self._embed(items, self.mode, self.document_instruction) if len(items) else []

    def embed_query_item(self, item: ItemLike) -> list[float]:
        """The vector of a query in any spelling, such as a picture."""
        return self._embed([item], self.query_mode or self.mode, self.query_instruction)[0]

    async def aembed_image(self, uris: list[str]) -> list[list[float]]:
        """`embed_image` in a thread."""
        return await run_in_executor(None, self.embed_image, uris)

    async def aembed_items(self, items: Sequence[ItemLike]) -> list[list[float]]:
        """`embed_items` in a thread."""
        return await run_in_executor(None, self.embed_items, items)

    def _embed(
        self, items: Sequence[ItemLike], mode: Literal["disc", "gen"], instruction: str | None
    ) -> list[list[float]]:
        result = self._embedder.embed(items, mode=mode, instruction=instruction)
        return result.vectors(mode).tolist()
