"""What a search finds: rows of the table as files, or pages of files, in the indexed folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ume_core.pdf import page_name, split_page
from ume_r1.index.disk import is_there
from ume_r1.index.folders import is_table
from ume_r1.index.pages import file_of
from ume_r1.index.table import Found

_MOST = 4096  # rows looked at for those that are no duplicates of others
_TOLD = ("kind", "score", "thinking", "summary", "date", "duplicates")  # of a row, in a hit


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        path: the file, where the indexed folder is now; its URI if that is on an object store; the
            id of a table's row.
        name: its path in the folder, `/` between the parts; of a PDF's page, with `#page=3`.
        kind: `image`, `video` or `text`.
        score: cosine similarity.
        thinking, summary: what gen wrote when it was indexed; empty in disc mode.
        date: when the picture was taken or the file was changed, such as `2026-05-31T17:45:00`.
        duplicates: names of files that were hidden, being nearly the same as this one.
    """

    path: Path | str
    name: str
    kind: str
    score: float
    thinking: str
    summary: str
    date: str = ""
    duplicates: tuple[str, ...] = ()

    @property
    def page(self) -> int | None:
        """The page, counted from 1, if it is one of a PDF."""
        return split_page(self.name)[1]

    @property
    def place(self) -> str:
        """The path, with the page behind it if it is one: what `Image` and `--image` take."""
        is_id = self.path == self.name
        if self.page is None or is_id:
            return str(self.path)
        return page_name(str(self.path), self.page)

    @property
    def gone(self) -> bool:
        """Whether the file is not there any more; an object store is not asked."""
        return isinstance(self.path, Path) and not is_there(self.path)


def hits_of(rows: list[dict[str, Any]], folder: Path | str) -> list[Hit]:
    """Rows, as `distinct` gives them, as files in the indexed folder, or rows of the table."""
    of_table = is_table(str(folder))

    def hit(row: dict[str, Any]) -> Hit:
        name = row["path"]
        path: Path | str = name
        if not of_table:
            file = file_of(name)
            path = folder / file if isinstance(folder, Path) else f"{folder}/{file}"
        return Hit(path, name, **{key: row[key] for key in _TOLD})

    # A foreign index must not lead a reader out of its folder.
    return [hit(row) for row in rows if of_table or _is_inside(row["path"])]


def _is_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in name.split("/")


def distinct(
    found: Callable[[int], Found], top: int, min_score: float | None, unique: float | None
) -> list[dict[str, Any]]:
    """The best rows that are good enough, and of nearly equal ones the first.

    Args:
        found: gives the best rows and their vectors, that many.
        top: how many rows at most.
        min_score: see `Index.search`.
        unique: see `Index.search`.

    Returns:
        rows, each with its `duplicates`.
    """
    count = top
    while True:
        rows, vectors = found(count)
        kept: list[int] = []
        doubles: dict[int, list[str]] = {}
        for number, row in enumerate(rows):
            if min_score is not None and row["score"] < min_score:
                break
            if unique is not None and kept:
                likeness = vectors[kept] @ vectors[number]
                nearest = int(likeness.argmax())
                if likeness[nearest] >= unique:
                    doubles.setdefault(kept[nearest], []).append(row["path"])
                    continue
            if len(kept) == top:
                break
            kept.append(number)
        ended = len(rows) < count or len(kept) + sum(map(len, doubles.values())) < len(rows)
        if len(kept) == top or unique is None or ended or count >= _MOST:
            return [rows[n] | {"duplicates": tuple(doubles.get(n, ()))} for n in kept]
        count *= 4
