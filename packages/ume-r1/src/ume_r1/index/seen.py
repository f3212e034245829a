"""`seen.parquet`: sizes and times of files whose content is indexed, so as not to read them again.

A cache: a file that is not in it, or differs, is read and its content compared. Kept apart from
the table, so that files that were only touched cost no vectors to be written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ume_r1.index.disk import write_whole
from ume_r1.index.shelf import Shelf

NAME = "seen.parquet"
UNKNOWN = -1  # a time that nobody knows, so that the file is read again
_ROWS = 65536  # of a row group, held at a time
# A file changed again within its file system's tick keeps its time (git's "racy git"); FAT's
# tick, the coarsest in use, is two seconds.
_TICK_NS = 2_000_000_000
_SCHEMA = pa.schema(
    [("path", pa.string()), ("digest", pa.string())]
    + [(name, pa.int64()) for name in ("size", "mtime_ns", "ctime_ns")]
)


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file.

    Attributes:
        size: bytes.
        mtime_ns: time of the last change of its content, nanoseconds since 1970, or `UNKNOWN`.
        ctime_ns: time of the last change of its content or attributes; programs cannot set it.
            On an object store a negative number, made of the mark (ETag) of its content.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_younger(self, seconds: float) -> bool:
        """Whether the file changed that lately, by this machine's clock, and not in the future."""
        return 0 <= time.time_ns() - max(self.mtime_ns, self.ctime_ns) < seconds * 1e9


class Seen:
    """The cache of one index directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._files: Shelf[tuple[str, int, int, int]]
        self._files = Shelf("digest", "size", "mtime_ns", "ctime_ns")
        self._changed = False
        try:
            with self._path.open("rb") as handle:
                self._files.extend(_stored(handle))
        except (OSError, ValueError, pa.ArrowException):  # absent or damaged: files are read again
            self._files.clear()

    def digest(self, path: str) -> str | None:
        """The digest its content had when it was last indexed."""
        found = self._files.get(path)
        return found[0] if found else None

    def digests(self) -> Iterator[tuple[str, str]]:
        """(path, digest) of every file in the cache, in order."""
        return ((path, digest) for path, (digest, *_) in self._files.items())

    def starting(self, beginning: str) -> list[str]:
        """Paths that begin so; see `Shelf.starting`."""
        return self._files.starting(beginning)

    def unchanged(self, path: str, stamp: Stamp) -> str | None:
        """The digest of a file that is as it was when it was read, else None."""
        found = self._files.get(path)
        if found is None or stamp.mtime_ns == UNKNOWN or Stamp(*found[1:]) != stamp:
            return None
        return found[0]

    def put(self, path: str, digest: str, stamp: Stamp) -> None:
        """Note that this content was read while the file had this stamp."""
        on_disk = stamp.ctime_ns >= 0
        if on_disk and time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) < _TICK_NS:
            stamp = Stamp(-1, 0, 0)  # it may change again without a trace
        entry = (digest, stamp.size, stamp.mtime_ns, stamp.ctime_ns)
        if self._files.get(path) != entry:
            self._files[path] = entry
            self._changed = True

    def keep_only(self, paths: Mapping[str, Any]) -> None:
        """Forget all other files."""
        for path in self._files:
            if path not in paths:
                del self._files[path]
                self._changed = True

    def write(self) -> None:
        """Store the cache if it changed.

        Raises:
            InvalidOption: the disk refuses it.
        """
        if self._changed:
            write_whole(self._path, self._fill)
            self._changed = False

    def _fill(self, handle: BinaryIO) -> None:
        with pq.ParquetWriter(handle, _SCHEMA, compression="zstd") as writer:
            rows: list[tuple[Any, ...]] = []
            for path, entry in self._files.items():
                rows.append((path, *entry))
                if len(rows) == _ROWS:
                    writer.write_table(_table(rows))
                    rows = []
            writer.write_table(_table(rows))


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    return pa.table([list(c) for c in columns], schema=_SCHEMA)


def _stored(handle: BinaryIO) -> Iterator[tuple[str, tuple[str, int, int, int]]]:
    file = pq.ParquetFile(handle)
    if not file.schema_arrow.equals(_SCHEMA):
        return
    for batch in file.iter_batches(_ROWS):
        for path, *entry in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield path, tuple(entry)
