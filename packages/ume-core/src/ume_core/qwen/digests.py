"""Digests of large files, remembered by each file's size and time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ume_core.user_cache import recall, remember

_DIGESTS = "digests.json"  # in the user's cache
_MOST_REMEMBERED = 512


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 over files' bytes, 16 hex digits."""
    return remembered("files", files, lambda: _bytes_digest(files))


def remembered(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """What `compute` makes of the files, or made of them when they had this size and time.

    The memory is a file in the user's cache; without one everything is computed anew.
    """
    stats = [(file, file.stat()) for file in files]
    key = "|".join([kind, *(f"{f}:{s.st_size}:{s.st_mtime_ns}" for f, s in stats)])
    known = recall(_DIGESTS)
    if key not in known:
        latest = list(known.items())[1 - _MOST_REMEMBERED :]
        known = dict([*latest, (key, compute())])
        remember(_DIGESTS, known)
    return known[key]


def _bytes_digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]
