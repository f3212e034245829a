"""Who embeds what: one small actor that all workers of a run ask.

It answers three questions: is this content stored already, does another task of this run embed it,
and how often has a process died over it. It holds digests, never content. If its own process dies,
Ray starts it again with what was stored when the run began; what it forgot is then embedded twice
at most, and stored once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

EMBED, SAME, UNCHANGED = range(3)  # answers to a claim
Digests = npt.NDArray[np.bytes_]

_BYTES = 16


def content_key(kind: str, digest: str, signature: str) -> bytes:
    """What decides a vector: the content and how it is embedded.

    Args:
        kind: of the content, such as `image`.
        digest: of the content.
        signature: `Signature.digest`.
    """
    return _hash(kind, digest, signature)


def row_key(name: str, kind: str, digest: str, signature: str) -> bytes:
    """What decides a row: its name and its content (see `content_key`)."""
    return _hash(name, kind, digest, signature)


def _hash(*parts: str) -> bytes:
    found = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.digest()


def sorted_keys(keys: bytes | bytearray) -> Digests:
    """Keys, one behind the other, in the form that is searched."""
    return np.sort(np.frombuffer(keys, f"S{_BYTES}"))


def holds(keys: Digests, wanted: Sequence[bytes]) -> list[bool]:
    """Which of the keys are among sorted ones."""
    if not len(keys):
        return [False] * len(wanted)
    asked = np.array(wanted, f"S{_BYTES}")
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return list(keys[places] == asked)


class Ledger:
    """The actor's class."""

    def __init__(self, rows: Digests, contents: Digests) -> None:
        """Begin with what is stored.

        Args:
            rows: `row_key` of every row, sorted.
            contents: `content_key` of the rows whose vectors may be copied, sorted.
        """
        self._rows, self._contents = rows, contents
        self._claims: dict[bytes, bytes] = {}
        self._tries: Counter[bytes] = Counter()
        self._workers: Counter[str] = Counter()

    def claim(
        self, rows: Sequence[bytes], contents: Sequence[bytes], owners: Sequence[bytes]
    ) -> list[int]:
        """What to do with each item.

        Args:
            rows: `row_key` of each.
            contents: `content_key` of each.
            owners: who asks; the same when a killed task asks again.

        Returns:
            `UNCHANGED` for a row that is stored as it is, `SAME` for a content that is stored or
            embedded under another name, else `EMBED`.
        """
        stored = zip(holds(self._rows, rows), holds(self._contents, contents), strict=True)
        found: list[int] = []
        for (row, content), key, owner in zip(stored, contents, owners, strict=True):
            if row:
                found.append(UNCHANGED)
            elif content or self._claims.setdefault(key, owner) != owner:
                found.append(SAME)
            else:
                found.append(EMBED)
        return found

    def begin(self, work: bytes) -> int:
        """Note that a work is begun; returns how often it was begun since it last ended."""
        self._tries[work] += 1
        return self._tries[work]

    def end(self, work: bytes) -> None:
        """Note that a work was done."""
        self._tries.pop(work, None)

    def join(self, node: str) -> None:
        """Note that a worker has loaded its model."""
        self._workers[node] += 1

    def joined(self) -> dict[str, Any]:
        """node -> how many workers loaded a model there, those in a dead one's place included."""
        return dict(self._workers)
