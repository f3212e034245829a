"""A mapping that may grow past memory: what a run knows of a million files.

A dict of a million paths with their digests takes half a gigabyte, and a run needs several. SQLite
keeps a table without a name in its page cache, and in a temporary file beyond that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

CACHE_KIB = 16 * 1024  # of memory that one shelf may hold
_PAGE = 4096  # entries read at a time
V = TypeVar("V", bound="tuple[Any, ...]")


class Shelf(MutableMapping[str, V]):
    """Names and what is known of each, in the order of the names' bytes.

    It may be changed while it is iterated, and used from several threads, one at a time.
    """

    def __init__(self, *columns: str, entries: Iterable[tuple[str, V]] = ()) -> None:
        """Make it.

        Args:
            columns: what the parts of a value are called; values are tuples of that many strings,
                integers or None.
            entries: what it holds to begin with.
        """
        self._columns = columns
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            self._database.execute(f"PRAGMA {setting}")
        names = ", ".join(["name BLOB PRIMARY KEY", *columns])
        self._database.execute(f"CREATE TABLE entries ({names}) WITHOUT ROWID")
        marks = ", ".join("?" * (len(columns) + 1))
        self._insert = f"INSERT OR REPLACE INTO entries VALUES ({marks})"
        self.extend(entries)

    def __getitem__(self, name: str) -> V:
        where = "FROM entries WHERE name = ?"
        columns = ", ".join(self._columns) or "name"
        found = self._database.execute(f"SELECT {columns} {where}", (_key(name),)).fetchone()
        if found is None:
            raise KeyError(name)
        return found if self._columns else ()  # pyright: ignore[reportReturnType]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        query = "SELECT 1 FROM entries WHERE name = ?"
        return self._database.execute(query, (_key(name),)).fetchone() is not None

    def __setitem__(self, name: str, value: V) -> None:
        self._database.execute(self._insert, (_key(name), *value))

    def __delitem__(self, name: str) -> None:
        query = "DELETE FROM entries WHERE name = ?"
        if not self._database.execute(query, (_key(name),)).rowcount:
            raise KeyError(name)

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM entries").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.read())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shelf):
            return Mapping.__eq__(self, other)
        if len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self.read(), other.read(), strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - like a dict

    def items(self) -> ItemsView[str, V]:
        """Names with their values; read in pages, so that changes meanwhile do no harm."""
        return _Items(self)

    def clear(self) -> None:
        """Forget all entries."""
        self._database.execute("DELETE FROM entries")

    def extend(self, entries: Iterable[tuple[str, V]], *, first: bool = False) -> None:
        """Put many entries at once.

        Args:
            entries: the entries.
            first: of several entries of one name, the first counts, and not the last.
        """
        insert = self._insert.replace("REPLACE", "IGNORE") if first else self._insert
        rows = ((_key(name), *value) for name, value in entries)
        self._database.execute("BEGIN")
        try:
            self._database.executemany(insert, rows)
        finally:
            self._database.execute("COMMIT")

    def copy(self) -> Shelf[V]:
        """Another one of the same entries."""
        return Shelf(*self._columns, entries=self.items())

    def find(self, **values: str | int) -> str | None:
        """The name of an entry with these values, if there is one; the first in order.

        Args:
            values: column -> value.
        """
        columns = sorted(values)
        self._database.execute(
            f"CREATE INDEX IF NOT EXISTS by_{'_'.join(columns)} ON entries ({', '.join(columns)})"
        )
        where = " AND ".join(f"{column} = ?" for column in columns)
        query = f"SELECT name FROM entries WHERE {where} ORDER BY name LIMIT 1"
        found = self._database.execute(query, [values[column] for column in columns]).fetchone()
        return None if found is None else _name(found[0])

    def starting(self, beginning: str) -> list[str]:
        """The names that begin so, in order; held at once, so there should be few."""
        first = _key(beginning)
        query = "SELECT name FROM entries WHERE name >= ? AND name < ? ORDER BY name"
        found = self._database.execute(query, (first, first + b"\xff")).fetchall()
        return [_name(name) for (name,) in found]

    def read(self) -> Iterator[tuple[str, V]]:
        """All entries in order, a page at a time."""
        last = b""
        while True:
            query = "SELECT * FROM entries WHERE name > ? ORDER BY name LIMIT ?"
            page = self._database.execute(query, (last, _PAGE)).fetchall()
            if not page:
                return
            for name, *value in page:
                yield _name(name), tuple(value)  # pyright: ignore[reportReturnType]
            last = page[-1][0]


class _Items(ItemsView[str, V]):
    """Entries in pages, where the mixin would look up every name."""

    def __init__(self, shelf: Shelf[V]) -> None:
        super().__init__(shelf)
        self._shelf = shelf

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return self._shelf.read()


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
