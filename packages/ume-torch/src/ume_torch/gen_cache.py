"""Gen answers kept on disk, by content and signature.

The key covers all that decides an answer (the prompt's tokens and positions, the content of its
media, the signature, the budget and the sampling) and the scope that asked. One SQLite file;
several processes may share it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ume_core.embedder import Sampling
from ume_core.errors import InvalidOption
from ume_core.results import Record, Sample, Vectors
from ume_core.signature import Signature
from ume_qwen.render import RenderedPrompt

_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, record TEXT NOT NULL, disc BLOB NOT NULL, gen BLOB NOT NULL
) WITHOUT ROWID"""


class GenCache:
    """A file of answers. Thread-safe; a forked process opens the file anew, as SQLite wants it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            InvalidOption: it cannot be used as one.
        """
        self._lock, self._path = threading.Lock(), path
        try:
            self._db, self.process = self._open(), os.getpid()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_TABLE)
            self._db.commit()
        except sqlite3.Error as error:
            raise InvalidOption(
                f"{path} cannot be used as a gen cache: {error}", fix="name another file"
            ) from error

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, check_same_thread=False)

    @property
    def connection(self) -> sqlite3.Connection:
        """Of this process, with the lock held (https://sqlite.org/howtocorrupt.html, 2.6)."""
        if self.process != os.getpid():
            self._inherited = self._db  # closing it would drop the parent's locks
            self._db, self.process = self._open(), os.getpid()
        return self._db

    def key(
        self, prompt: RenderedPrompt, signature: Signature, budget: int, sampling: Sampling | None
    ) -> bytes:
        """What decides the answer to a prompt."""
        how: dict[str, Any] = {"budget": budget, "sampling": asdict(sampling) if sampling else None}
        if prompt.scope:
            how["scope"] = prompt.scope
        digest = blake2b(json.dumps(how, sort_keys=True).encode(), digest_size=32)
        digest.update(signature.for_mode("gen").digest.encode())
        digest.update(prompt.ids.tobytes())
        digest.update(np.ascontiguousarray(prompt.positions).tobytes())
        for visual in prompt.media:
            digest.update(visual.digest)
        return digest.digest()

    def get(self, key: bytes) -> tuple[Record, Vectors, list[Vectors]] | None:
        """Record, disc vector (dim,) and gen vectors (dim,) of an answer that is kept."""
        try:
            with self._lock:
                row = self.connection.execute(
                    "SELECT record, disc, gen FROM answers WHERE key = ?", (key,)
                ).fetchone()
            if row is None:
                return None
            record = json.loads(row[0])
            record["samples"] = tuple(Sample(**s) for s in record["samples"])
            record["warnings"] = tuple(record["warnings"])
            disc, gen = (np.frombuffer(b, dtype="<f4") for b in row[1:])
            return Record(**record), disc, list(gen.reshape(-1, len(disc)))
        except (sqlite3.Error, ValueError, TypeError, KeyError):
            return None  # a damaged or locked file costs the generation, not the call

    def put(self, key: bytes, record: Record, disc: Vectors, gen: list[Vectors]) -> None:
        """Keep an answer."""
        values = (
            key, json.dumps(asdict(record)),
            disc.astype("<f4").tobytes(), np.stack(gen).astype("<f4").tobytes(),
        )  # fmt: skip
        try:
            with self._lock, self.connection as db:
                db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            warnings.warn(f"an answer was not cached: {error}", RuntimeWarning, stacklevel=2)
