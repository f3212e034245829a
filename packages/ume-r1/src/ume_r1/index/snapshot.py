"""`rows.arrow`: the rows of a small index in one file, for reading without LanceDB.

Importing LanceDB takes ten times as long as a search of a small index. The file is a copy that a
run leaves when it ends: where the table has changed since, is too large to be checked whole, or the
copy is not as it was written, the table is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ume_core.results import Vectors
from ume_r1.index import seal
from ume_r1.index.description import Description, SealedFile
from ume_r1.index.disk import remove, write_whole
from ume_r1.index.rows import Narrow, matrix
from ume_r1.index.shelf import Shelf
from ume_r1.index.table import Found, Table, table_folder

NAME = "rows.arrow"
Known: TypeAlias = Shelf[tuple[str, str]]


class Snapshot:
    """The rows of an index, in memory; what of `Table` only reads."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def cells(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """See `Table.cells`."""
        return zip(*(self._rows[name].to_pylist() for name in names), strict=True)

    def nearest(
        self, vector: Vectors, column: str, top: int, narrow: Narrow, *, exact: bool = False
    ) -> Found:
        """See `Table.nearest`; always exact."""
        del exact
        vectors = matrix(self._rows[column])
        scores = vectors @ np.asarray(vector, np.float32)
        rows = np.flatnonzero(self._taken(narrow))
        best = rows[np.argsort(-scores[rows], kind="stable")[:top]]
        found = [self._row(int(row)) | {"score": float(scores[row])} for row in best]
        return found, vectors[best]

    def scores(self, vector: Vectors, column: str, narrow: Narrow) -> dict[str, float]:
        """See `Table.scores`."""
        found = (matrix(self._rows[column]) @ np.asarray(vector, np.float32)).tolist()
        rows = zip(self._rows["path"].to_pylist(), found, self._taken(narrow), strict=True)
        return {path: score for path, score, taken in rows if taken}

    def has(self, path: str) -> bool:
        """See `Table.has`."""
        return (path,) in self.cells("path")

    def rows(self, paths: Sequence[str], column: str) -> Found:
        """See `Table.rows`."""
        numbers = {path: number for number, (path,) in enumerate(self.cells("path"))}
        places = [numbers[path] for path in paths]
        return [self._row(place) for place in places], matrix(self._rows[column])[places]

    def _taken(self, narrow: Narrow) -> list[bool]:
        return [narrow.takes(*cells) for cells in self.cells("path", "kind", "date")]

    def _row(self, number: int) -> dict[str, Any]:
        # Cell by cell: to take rows, Arrow makes an array of their numbers, and imports pandas.
        names = [f.name for f in self._rows.schema if f.type == pa.string()]
        return {name: self._rows[name][number].as_py() for name in names}


def write(directory: Path, table: Table, sealed: dict[str, SealedFile]) -> SealedFile | None:
    """Copy a table that was just sealed, if it is small.

    Returns:
        the file's size and digest; None where there is none.

    Raises:
        InvalidOption: the disk refuses it.
        DamagedIndex: the table cannot be read.
    """
    path = directory / NAME
    if _small(sealed):
        pages = list(table.pages())
        if not any(lost for _, lost in pages):
            rows = pa.concat_tables([table.schema.empty_table(), *(rows for rows, _ in pages)])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(rows)
            data = sink.getvalue().to_pybytes()
            write_whole(path, data)
            return SealedFile(len(data), _digest(data))
    remove(path)
    return None


def read(directory: Path, about: Description) -> Snapshot | None:
    """The copy, if it is whole and the table is as it was sealed; else None.

    Args:
        directory: of the index.
        about: its description; what it seals was found undamaged.
    """
    folder = table_folder(directory, about.generation)
    if about.snapshot is None or not _small(about.sealed):
        return None
    if set(seal.table_files(folder)) != set(about.sealed):  # written since, by a run that goes on
        return None
    try:
        with (directory / NAME).open("rb") as handle:
            data = handle.read(about.snapshot.size + 1)
    except OSError:
        return None
    if len(data) != about.snapshot.size or _digest(data) != about.snapshot.digest:
        return None
    rows = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    return Snapshot(rows) if rows.schema.equals(about.schema) else None


def lacks(directory: Path, about: Description) -> bool:
    """Whether there should be a copy, and is no good one."""
    return _small(about.sealed) and read(directory, about) is None


def known_rows(table: Table | Snapshot) -> Known:
    """path -> (kind, digest) of every row of a table; of the first, if a path has several."""
    known: Known = Shelf("kind", "digest")
    rows = table.cells("path", "kind", "digest")
    known.extend(((path, (kind, digest)) for path, kind, digest in rows), first=True)
    return known


def _small(sealed: dict[str, SealedFile]) -> bool:
    return sum(file.size for file in sealed.values()) <= seal.CHEAP_BYTES


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
