"""Embedding a task's entries chunk by chunk into stores, shared by all processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ume_core import Embedder, Limits, Signature
from ume_core.errors import InvalidOption
from ume_eval.data.model import Entry
from ume_eval.run.store import Stored, VectorStore, store_name
from ume_eval.run.workers import Workers

Side: TypeAlias = Literal["disc", "gen"]
SIDES: tuple[Side, ...] = ("disc", "gen")
Advance: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class EncoderOptions:
    """How entries are embedded.

    Attributes:
        max_new_tokens: budget of an answer; None takes `Limits.new_tokens`.
        chunk: items embedded and stored together; what a killed run loses at most, per process.
    """

    max_new_tokens: int | None = None
    chunk: int = 256


class Encoder:
    """Embeds entries once per content and mode.

    Args:
        embedder: any embedder.
        folder: holds one store per signature and budget.
        workers: processes that share the folder.
    """

    def __init__(
        self,
        embedder: Embedder,
        folder: Path,
        *,
        workers: Workers | None = None,
        options: EncoderOptions | None = None,
    ) -> None:
        self.embedder, self.folder = embedder, folder
        self.workers, self.options = workers or Workers(), options or EncoderOptions()
        self._stores: dict[Side, VectorStore] = {}

    @property
    def budget(self) -> int:
        """Tokens an answer may have."""
        asked = self.options.max_new_tokens
        return Limits().new_tokens if asked is None else asked

    def signature(self, side: Side) -> Signature:
        """Of vectors of one mode."""
        return self.embedder.signature(side)

    def embed(self, entries: Sequence[Entry], side: Side, advance: Advance | None = None) -> Stored:
        """Vectors of entries, from the store where it has them.

        Args:
            entries: queries or candidates.
            side: mode.
            advance: called with a number of items when they are done.

        Raises:
            InvalidOption: no such mode.
        """
        if side not in SIDES:
            raise InvalidOption(f"mode is {side!r}", fix="use disc or gen, which are one vector")
        keys = [entry.digest() for entry in entries]
        store = self._store(side)
        store.refresh()
        missing = store.missing(keys)
        self.workers.wait()  # nobody writes before everybody has seen the same chunks
        if advance is not None:
            advance(len(keys) - len(missing))
        # Chunks are cut before they are dealt out: what is embedded together depends neither on
        # the number of processes nor on where a run was interrupted.
        size = self.options.chunk
        chunks = [missing[n : n + size] for n in range(0, len(missing), size)]
        for number, chunk in enumerate(chunks):
            if number % self.workers.count == self.workers.rank:
                self._embed_chunk([keys[n] for n in chunk], [entries[n] for n in chunk], side)
            if advance is not None:
                advance(len(chunk))
        self.workers.wait()
        store.refresh()
        return store.get(keys)

    def _embed_chunk(self, keys: list[str], entries: list[Entry], side: Side) -> None:
        began = time.perf_counter()
        result = self.embedder.embed(
            [entry.item() for entry in entries],
            mode=side,
            max_new_tokens=self.options.max_new_tokens if side == "gen" else None,
            on_error="record",
        )
        seconds = time.perf_counter() - began
        self._store(side).put(keys, result.vectors(side), result.records, seconds)

    def _store(self, side: Side) -> VectorStore:
        if side not in self._stores:
            signature = self.signature(side)
            folder = self.folder / store_name(signature, self.budget)
            self._stores[side] = VectorStore(folder, signature)
        return self._stores[side]
