"""What a parsed task is: queries, candidates and relevance, free of any model's prompt."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ume_core import Image, Item, Text, Video
from ume_eval.tasks import Task

# What the official collator puts beside every text, and alone in place of an empty candidate.
BLANK = np.full((28, 28, 3), 255, dtype=np.uint8)


@dataclass(frozen=True)
class Page:
    """A picture stored in an annotation table, read when it is needed.

    Attributes:
        table: a `datasets.Dataset` whose image column is not decoded.
        row: its row.
    """

    table: Any = field(repr=False)
    row: int
    column: str = "image"

    def read(self) -> bytes:
        """The encoded picture."""
        value = self.table[self.row][self.column]
        data = value["bytes"]
        return data if data is not None else Path(value["path"]).read_bytes()


File: TypeAlias = "Path | Page"


@dataclass(frozen=True)
class Media:
    """A picture, or the frames of a video in order."""

    kind: Literal["image", "video"]
    files: tuple[File, ...]

    def digests(self) -> list[str]:
        """SHA-256 of every file's bytes."""
        return [hashlib.sha256(_read(f)).hexdigest() for f in self.files]

    def part(self) -> Image | Video:
        """The same as a part of an item."""
        sources = [f if isinstance(f, Path) else f.read() for f in self.files]
        return Image(sources[0]) if self.kind == "image" else Video(sources)

    def pictures(self) -> list[Any]:
        """Decoded RGB pictures."""
        from PIL import Image as PILImage

        return [PILImage.open(io.BytesIO(_read(f))).convert("RGB") for f in self.files]


def _read(file: File) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file.read()


@dataclass(frozen=True)
class Entry:
    """Something to embed.

    Attributes:
        key: its identity within the task: upstream's, with paths relative to the media's root.
        text: all text, instruction included, without media placeholders or outer white space.
        media: its picture or video.
    """

    key: Hashable
    text: str
    media: Media | None = None

    def item(self) -> Item:
        """As it is embedded: media first, then the text."""
        parts: list[Text | Image | Video] = [] if self.media is None else [self.media.part()]
        if self.text.strip():
            parts.append(Text(self.text))
        return Item(tuple(parts) or (Image(BLANK),))

    def digest(self) -> str:
        """Hash of the content, whatever its name or place."""
        content = hashlib.sha256(repr(self.text).encode())
        if self.media is not None:
            content.update(repr((self.media.kind, self.media.digests())).encode())
        return content.hexdigest()[:32]


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        entry: its content.
        relevant: grade by candidate number, in the annotation's order; empty where the data has
            no answer, which every protocol scores as a miss.
        candidates: candidate numbers that are ranked, repeats included; None for the corpus.
    """

    entry: Entry
    relevant: dict[int, int]
    candidates: tuple[int, ...] | None = None


@dataclass
class TaskData:
    """A parsed task.

    Attributes:
        notes: oddities of the data, counted by what they are.
        revision: commit of the annotations as their download recorded it, else None.
    """

    task: Task
    queries: list[Query]
    candidates: list[Entry]
    notes: Counter[str] = field(default_factory=Counter)
    revision: str | None = None

    @property
    def entries(self) -> list[Entry]:
        """Queries, then candidates."""
        return [q.entry for q in self.queries] + self.candidates

    def digest(self) -> str:
        """16 hex digits over names, texts, order and relevance; media count by key."""
        content = hashlib.sha256()
        for query in self.queries:
            media = query.entry.media
            shape = (media.kind, len(media.files)) if media else None
            content.update(repr((query.entry.text, shape, sorted(query.relevant.items()))).encode())
            content.update(repr(query.candidates).encode())
        for entry in self.candidates:
            media = entry.media
            shape = (media.kind, len(media.files)) if media else None
            content.update(repr((entry.key, entry.text, shape)).encode())
        return content.hexdigest()[:16]


class Collector:
    """Collects candidates; equal keys are one candidate, and the first text given to one stays."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._numbers: dict[Hashable, int] = {}

    def add(self, entry: Entry) -> int:
        """The number of a candidate."""
        number = self._numbers.setdefault(entry.key, len(self.entries))
        if number == len(self.entries):
            self.entries.append(entry)
        return number

    def number(self, key: Hashable) -> int | None:
        """The number of a key, if it is there."""
        return self._numbers.get(key)
