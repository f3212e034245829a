"""Vectors on disk, by content: nothing computed is lost, nothing is computed twice.

A chunk is one file that appears whole or not at all, so a run that is killed at any moment goes on
after its last chunk. Keys are hashes of content, without paths, so that tasks share candidates and
a moved data directory changes nothing. One folder holds vectors of one signature and budget.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ume_core import Record, Signature

STATUSES = ("ok", "forced", "failed")
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """Vectors and what became of each item.

    Attributes:
        vectors: float32 (items, dimensions); NaN for failed items.
        status: index into `STATUSES`, shape (items,).
        prompt_tokens: tokens of each prompt.
        generated_tokens: tokens of each answer.
        seconds: each item's share of its chunk's time.
    """

    vectors: Vectors
    status: npt.NDArray[np.uint8]
    prompt_tokens: npt.NDArray[np.int64]
    generated_tokens: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]

    @property
    def failed(self) -> frozenset[int]:
        """Rows without a vector."""
        return frozenset(np.flatnonzero(self.status == STATUSES.index("failed")).tolist())

    def counts(self) -> dict[str, int]:
        """Items by status."""
        return {name: int((self.status == n).sum()) for n, name in enumerate(STATUSES)}

    def cost(self) -> dict[str, float]:
        """Tokens and seconds of all items together."""
        return {
            "prompt_tokens": int(self.prompt_tokens.sum()),
            "generated_tokens": int(self.generated_tokens.sum()),
            "seconds": round(float(self.seconds.sum()), 3),
        }


def store_name(signature: Signature, budget: int) -> str:
    """Folder of vectors that are alike in everything but the item."""
    content = f"{signature.digest}/{signature.mode}/{budget if signature.mode == 'gen' else ''}"
    return f"{signature.mode}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


class VectorStore:
    """The chunks of one folder.

    Args:
        folder: made if it is missing.
        signature: written beside the chunks for readers.
    """

    def __init__(self, folder: Path, signature: Signature) -> None:
        self.folder, self.dimensions = folder, signature.dimensions
        folder.mkdir(parents=True, exist_ok=True)
        about = json.dumps(signature.to_dict(), indent=1, sort_keys=True)
        _write(folder / "signature.json", about.encode())
        self._places: dict[str, tuple[Path, int]] = {}
        self._read: set[Path] = set()
        self.refresh(retry=True)

    def refresh(self, *, retry: bool = False) -> None:
        """Take up chunks that other processes wrote.

        Args:
            retry: leave failed items out, so that they are tried again.
        """
        for path in sorted(self.folder.glob("*.npz")):
            if path in self._read:
                continue
            with np.load(path, allow_pickle=False) as chunk:
                keys, status = chunk["keys"], chunk["status"]
            for row, key in enumerate(keys.tolist()):
                if not (retry and STATUSES[status[row]] == "failed"):
                    self._places[key] = (path, row)
            self._read.add(path)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of keys that have no vector; of equal ones the first only."""
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        return sorted(n for key, n in first.items() if key not in self._places)

    def put(
        self, keys: Sequence[str], vectors: Vectors, records: Sequence[Record], seconds: float
    ) -> None:
        """Write one chunk."""
        digest = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path = self.folder / f"{digest}-{os.getpid()}.npz"
        content: dict[str, Any] = {
            "keys": np.array(keys, dtype="U32"),
            "vectors": np.asarray(vectors, dtype=np.float32),
            "status": np.array([STATUSES.index(r.status) for r in records], dtype=np.uint8),
            "prompt_tokens": np.array([r.prompt_tokens for r in records], dtype=np.int64),
            "generated_tokens": np.array([r.generated_tokens for r in records], dtype=np.int64),
            "seconds": np.full(len(keys), seconds / len(keys)),
        }
        with _whole(path) as file:
            np.savez(file, **content)
        self.refresh()

    def get(self, keys: Sequence[str]) -> Stored:
        """Everything stored of these keys, in their order."""
        columns: dict[str, npt.NDArray[Any]] = {
            "vectors": np.full((len(keys), self.dimensions), np.nan, dtype=np.float32),
            "status": np.zeros(len(keys), dtype=np.uint8),
            "prompt_tokens": np.zeros(len(keys), dtype=np.int64),
            "generated_tokens": np.zeros(len(keys), dtype=np.int64),
            "seconds": np.zeros(len(keys)),
        }
        by_chunk: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            path, row = self._places[key]
            by_chunk.setdefault(path, []).append((position, row))
        for path, pairs in by_chunk.items():
            positions, rows = (list(column) for column in zip(*pairs, strict=True))
            with np.load(path, allow_pickle=False) as chunk:
                for name, column in columns.items():
                    column[positions] = chunk[name][rows]
        return Stored(**columns)


class _whole:
    """A file that takes its name once it is completely on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        self._part, self._file = Path(name), os.fdopen(handle, "wb")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink()


def _write(path: Path, content: bytes) -> None:
    with _whole(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
