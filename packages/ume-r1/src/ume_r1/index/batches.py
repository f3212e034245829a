"""Embedding what a run found, some files at a time, and storing the rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ume_core.embedder import Embedder
from ume_core.fetch import Access
from ume_core.items import Image, Item, Video
from ume_core.media import load_video, open_image
from ume_r1.index.reading import Unreadable
from ume_r1.index.rows import Row
from ume_r1.index.seen import Seen, Stamp
from ume_r1.index.store import Index
from ume_r1.index.table import PAGE
from ume_r1.index.writer import Writer

# Files embedded together: what a kill can cost, or two seconds where that is more. Gen takes
# seconds an item, so that it commits more often.
_CHUNK = {"disc": 64, "gen": 8, "both": 8}
_CHUNK_BYTES = 64 * 1024 * 1024  # of files held at a time; a larger file is held alone
_COMMIT_SECONDS = 2.0  # between commits: with a quick model, a chunk is done sooner
_SECONDS = 30  # between writings of the cache of file times

Source = Embedder | Callable[[], Embedder]


@dataclass(frozen=True)
class Held:
    """A file or page to embed, as it was read.

    Attributes:
        item: what is embedded.
        size: bytes that it holds.
        digest: of its row.
        date: see `dates.date_of`.
        stamp: of its file.
    """

    item: Item
    size: int
    digest: str
    date: str
    stamp: Stamp


class Batches:
    """What waits to be embedded, and what was embedded and waits to be stored."""

    def __init__(
        self,
        index: Index,
        writer: Writer,
        seen: Seen,
        model: Source,
        max_new_tokens: int | None,
        *,
        skip: Callable[[str, Unreadable], None],
        stored: Callable[[str, str], None],
        advance: Callable[[int], None],
    ) -> None:
        """Begin with nothing.

        Args:
            index: the index.
            writer: of its rows.
            seen: notes the files whose rows are stored.
            model: see `build_index`.
            max_new_tokens: budget of gen.
            skip: called with the path of what cannot be embedded, and why.
            stored: called with the path and digest of a row that is stored, before `seen` has it.
            advance: called with the number of files that were embedded.
        """
        self._index, self._writer, self._seen = index, writer, seen
        self._model, self._max_new_tokens = model, max_new_tokens
        self._skip, self._stored, self._advance = skip, stored, advance
        self._embedder: Embedder | None = None
        self._chunk: dict[str, Held] = {}
        self._waiting: list[tuple[Row, Stamp]] = []
        self._written = self._committed = time.monotonic()

    def add(self, path: str, held: Held) -> None:
        """Embed it, now or with others.

        Raises:
            UmeError: the model cannot be loaded, or the disk refuses something.
        """
        if self._chunk and sum(h.size for h in self._chunk.values()) + held.size > _CHUNK_BYTES:
            self._embed()
        self._chunk[path] = held
        if len(self._chunk) == _CHUNK[self._index.description.mode]:
            self._embed()

    def refuse_early(self, item: Item) -> None:
        """Find out what cannot be decoded before a model is loaded for it.

        Raises:
            UmeError: it cannot be decoded.
        """
        if self._embedder is not None or isinstance(self._model, Embedder):
            return
        for part in item.media:
            if isinstance(part, Image):
                open_image(part, Access())
            elif isinstance(part, Video):
                load_video(part, Access())

    def take(self, rows: Sequence[tuple[Row, Stamp]]) -> None:
        """Store rows that were embedded elsewhere, each with its file's stamp, in one commit."""
        self._waiting += rows
        self.store()
        self._advance(len(rows))

    def finish(self) -> None:
        """Embed and store what is left."""
        self._embed()
        self.store()

    def _embed(self) -> None:
        if not self._chunk:
            return
        chunk = self._chunk
        result = self._load().embed(
            [held.item for held in chunk.values()],
            mode=self._index.description.mode,
            max_new_tokens=self._max_new_tokens,
            on_error="record",
        )
        self._chunk = {}
        done = 0
        for i, (path, record) in enumerate(zip(chunk, result.records, strict=True)):
            if record.status == "failed":
                reason = reason_of(record.reason or "it cannot be embedded")
                self._skip(path, Unreadable(reason, replaced=True))
                continue
            held = chunk[path]
            row = Row(
                path=path,
                digest=held.digest,
                kind=held.item.modality,
                date=held.date,
                status=record.status,
                thinking=record.thinking,
                summary=record.summary,
                disc=None if result.disc is None else result.disc[i],
                gen=None if result.gen is None else result.gen[i],
            )
            self._waiting.append((row, held.stamp))
            done += 1
        if len(self._waiting) >= PAGE or time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self.store()
        self._advance(done)

    def store(self) -> None:
        """Store the rows that wait: in few commits where a model is quick, lest those grow."""
        self._writer.put([row for row, _ in self._waiting])
        for row, stamp in self._waiting:
            self._stored(row.path, row.digest)
            self._seen.put(row.path, row.digest, stamp)
        self._waiting = []
        self._committed = time.monotonic()
        if time.monotonic() - self._written > _SECONDS:
            began = time.monotonic()
            self._seen.write()
            self._written = time.monotonic()
            self._written += 20 * (self._written - began)  # of a large index, less often

    def _load(self) -> Embedder:
        if self._embedder is None:
            self._embedder = self._model if isinstance(self._model, Embedder) else self._model()
            self._index.require(self._embedder.signature(self._index.description.mode))
        return self._embedder


def reason_of(text: str) -> str:
    """An error without the index in the batch; the file's name stands before it."""
    return re.sub(r"^the bytes\b", "it", re.sub(r"^item \d+: ", "", text))
