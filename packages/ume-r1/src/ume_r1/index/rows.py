"""Rows of the table: their columns, and the digest by which a damaged row is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ume_core.results import Vectors
from ume_core.signature import Mode

_TEXTS = ("path", "digest", "kind", "date", "status", "thinking", "summary")
_CHECK = "check"
_CHECK_BYTES = 8  # a damaged row passes once in 2**64


@dataclass(frozen=True)
class Row:
    """One indexed file, or page of one.

    Attributes:
        path: relative to the indexed folder, `/` between its parts; of a PDF's page, with
            `#page=3` behind it.
        digest: SHA-256 of the bytes that were embedded, hexadecimal; a page's: see `pages`.
        kind: `image`, `video` or `text`.
        date: see `dates.date_of`.
        status: `ok` or `forced` (see `ume_core.results.Record`).
        thinking, summary: what gen wrote; empty in disc mode.
        disc, gen: float32 (dimensions,), unit length; None if the index does not hold it.
    """

    path: str
    digest: str
    kind: str
    date: str
    status: str
    thinking: str
    summary: str
    disc: Vectors | None
    gen: Vectors | None


@dataclass(frozen=True)
class Narrow:
    """Which rows a search looks at.

    Attributes:
        kind: `image`, `video` or `text`; None for all.
        under: a folder below the indexed one, `/` between its parts; empty for all.
        since: a date or the beginning of one, which counts; None for all.
        until: likewise.
    """

    kind: str | None = None
    under: str = ""
    since: str | None = None
    until: str | None = None

    def takes(self, path: str, kind: str, date: str) -> bool:
        """Whether a row is looked at."""
        return (
            self.kind in (None, kind)
            and (not self.under or path.startswith(self.under + "/"))
            and (self.since is None or date >= self.since)
            # A beginning stands for all that begin so; "~" sorts behind whatever a date has.
            and (self.until is None or "" < date <= self.until + "~")
        )

    def condition(self) -> str:
        """The same in SQL; empty for all rows."""
        found = [] if self.kind is None else [f"kind = {quoted(self.kind)}"]
        if self.under:
            found.append(f"starts_with(path, {quoted(self.under + '/')})")
        if self.since is not None:
            found.append(f"date >= {quoted(self.since)}")
        if self.until is not None:
            found.append(f"date > '' AND date <= {quoted(self.until + '~')}")
        return " AND ".join(found)


def quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def vector_columns(mode: Mode) -> tuple[str, ...]:
    """The vectors an index of this mode holds."""
    return ("disc", "gen") if mode == "both" else (mode,)


def schema_of(mode: Mode, dimensions: int) -> pa.Schema:
    """Columns of the table of an index of this mode, whose vectors have this length."""
    vector = pa.list_(pa.float32(), dimensions)
    return pa.schema(
        [pa.field(name, pa.string()) for name in (*_TEXTS, _CHECK)]
        + [pa.field(name, vector) for name in vector_columns(mode)]
    )


def to_arrow(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table with their digests."""
    columns: dict[str, Any] = {name: [getattr(r, name) for r in rows] for name in _TEXTS}
    for name in ("disc", "gen"):
        if name in schema.names:
            values = np.stack([np.asarray(getattr(r, name), np.float32) for r in rows])
            columns[name] = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    return with_checks(columns, schema)


def with_checks(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """An Arrow table of these columns, the digest of each row computed from the others."""
    count = len(columns["path"])
    table = pa.table({**columns, _CHECK: [""] * count}, schema=schema)
    place = schema.get_field_index(_CHECK)
    return table.set_column(place, schema.field(_CHECK), pa.array(_checks(table)))


def renamed(rows: pa.Table, paths: Sequence[str]) -> pa.Table:
    """The same content under other paths."""
    columns = {name: rows[name] for name in rows.column_names if name != _CHECK}
    return with_checks(columns | {"path": list(paths)}, rows.schema)


def checked(rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """The rows that are as they were written, and the paths, perhaps damaged, of the others."""
    stored = rows[_CHECK].to_pylist()
    good = [a == b for a, b in zip(stored, _checks(rows), strict=True)]
    lost = [str(p) for p, kept in zip(rows["path"].to_pylist(), good, strict=True) if not kept]
    return (rows.filter(pa.array(good, pa.bool_())) if lost else rows), lost


def _checks(rows: pa.Table) -> list[str]:
    """BLAKE2b over every other cell of each row."""
    texts = [rows[name].to_pylist() for name in _TEXTS]
    vectors = [matrix(rows[name]) for name in ("disc", "gen") if name in rows.column_names]
    found: list[str] = []
    for index, cells in enumerate(zip(*texts, strict=True)):
        digest = hashlib.blake2b(digest_size=_CHECK_BYTES)
        for cell in cells:
            data = (cell or "").encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        for values in vectors:
            digest.update(values[index].tobytes())
        found.append(digest.hexdigest())
    return found


def matrix(column: pa.ChunkedArray) -> Vectors:
    """A vector column as float32 (rows, dimensions); all NaN if a vector is missing."""
    shape = (len(column), column.type.list_size)
    if column.null_count:
        return np.full(shape, np.nan, np.float32)
    # Not through Arrow's own conversion, which imports pandas where it is installed (1 s).
    parts = [chunk.flatten() for chunk in column.chunks if len(chunk)]
    values = [
        np.frombuffer(part.buffers()[1], np.float32, len(part), 4 * part.offset) for part in parts
    ]
    return np.concatenate(values or [np.empty(0, np.float32)]).reshape(shape)
