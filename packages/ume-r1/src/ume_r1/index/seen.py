"""`seen.parquet`: sizes and times of files whose content is indexed, so as not to read them again.

A cache: a file that is not in it, or differs, is read and its content compared. Kept apart from
the table, so that files that were only touched cost no vectors to be written.
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ume_r1.index.disk import write_whole

NAME = "seen.parquet"
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
        mtime_ns: time of the last change of its content, nanoseconds since 1970.
        ctime_ns: time of the last change of its content or attributes; programs cannot set it.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Seen:
    """The cache of one index directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._files: dict[str, tuple[str, Stamp]] = {}
        self._changed = False
        try:
            data = io.BytesIO(self._path.read_bytes())
            table = pq.ParquetFile(data).read()
            if not table.schema.equals(_SCHEMA):
                return
            rows = table.to_pylist()
        except (OSError, ValueError, pa.ArrowException):  # absent or damaged: files are read again
            return
        for row in rows:
            stamp = Stamp(row["size"], row["mtime_ns"], row["ctime_ns"])
            self._files[row["path"]] = (row["digest"], stamp)

    def digest(self, path: str) -> str | None:
        """The digest its content had when it was last indexed."""
        found = self._files.get(path)
        return found[0] if found else None

    def digests(self) -> dict[str, str]:
        """path -> digest of every file in the cache."""
        return {path: digest for path, (digest, _) in self._files.items()}

    def unchanged(self, path: str, stamp: Stamp) -> str | None:
        """The digest of a file that is as it was when it was read, else None."""
        found = self._files.get(path)
        return found[0] if found and found[1] == stamp else None

    def put(self, path: str, digest: str, stamp: Stamp) -> None:
        """Note that this content was read while the file had this stamp."""
        if time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) < _TICK_NS:
            stamp = Stamp(-1, 0, 0)  # it may change again without a trace
        if self._files.get(path) != (digest, stamp):
            self._files[path] = (digest, stamp)
            self._changed = True

    def keep_only(self, paths: set[str]) -> None:
        """Forget all other files."""
        for path in set(self._files) - paths:
            del self._files[path]
            self._changed = True

    def write(self) -> None:
        """Store the cache if it changed.

        Raises:
            InvalidOption: the disk refuses it.
        """
        if not self._changed:
            return
        rows = [(path, digest, *astuple(stamp)) for path, (digest, stamp) in self._files.items()]
        columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
        table = pa.table([list(c) for c in columns], schema=_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_whole(self._path, buffer.getvalue())
        self._changed = False
