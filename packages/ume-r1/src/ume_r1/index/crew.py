"""Embedding files elsewhere: what a run of `build_index` asks of other processes, and gets back.

A crew reads, hashes and embeds; it stores nothing. The run alone writes, so that whatever happens
to the crew, the index holds whole commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ume_r1.index.folders import Folder
from ume_r1.index.reading import Unreadable
from ume_r1.index.rows import Row
from ume_r1.index.seen import Stamp


@dataclass(frozen=True)
class Same:
    """An item that needs no vector of its own.

    Attributes:
        name: of the file, or page of one.
        kind: `image`, `video` or `text`.
        digest: of its row.
    """

    name: str
    kind: str
    digest: str


@dataclass
class Done:
    """What a crew did since it was last asked.

    Attributes:
        rows: to be stored.
        stamps: of every file that was read, by the names used here.
        pages: PDF file -> how many pages it has, for all that were read.
        same: files and pages whose content is stored, or comes with this run, under another name.
        unchanged: files and pages whose rows are stored as they are.
        failed: name of a file or page -> why it cannot be embedded.
        hopeless: (kind, digest) -> why nobody can embed this content.
    """

    rows: list[Row] = field(default_factory=list[Row])
    stamps: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
    pages: dict[str, int] = field(default_factory=dict[str, int])
    same: list[Same] = field(default_factory=list[Same])
    unchanged: list[Same] = field(default_factory=list[Same])
    failed: dict[str, Unreadable] = field(default_factory=dict[str, Unreadable])
    hopeless: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])


class Crew(Protocol):
    """Whoever embeds the files of a folder in place of this process."""

    def embed(
        self,
        folder: Folder,
        files: Iterable[tuple[str, str]],
        stored: Iterable[tuple[str, tuple[str, str]]],
        lasting: Callable[[str], bool],
    ) -> Iterator[Done]:
        """Embed what is not stored, every content once.

        Args:
            folder: the folder.
            files: name and kind of each: of files, the kind of whose pages is `pdf`, and of pages
                that are to be embedded without the others of their file.
            stored: name, kind and digest of every row of the index.
            lasting: whether the row of this name stays as it is while the crew works, so that it
                can be copied afterwards.

        Yields:
            what was done since the last time; every file, and every page of a PDF, once.

        Raises:
            UmeError: nothing more can be embedded. What was yielded stands.
        """
        ...
