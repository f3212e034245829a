"""Digests of large files, remembered by each file's size and time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_MOST_REMEMBERED = 512


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 over files' bytes, 16 hex digits."""
    return remembered("files", files, lambda: _bytes_digest(files))


def remembered(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """What `compute` makes of the files, or made of them when they had this size and time.

    The memory is a file in the user's cache directory. Without one, or where it cannot be read or
    written, everything is computed anew.
    """
    stats = [(file, file.stat()) for file in files]
    key = "|".join([kind, *(f"{f}:{s.st_size}:{s.st_mtime_ns}" for f, s in stats)])
    store = _store()
    known: dict[str, str] = {}
    if store is not None:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(store.read_text("utf-8"))
    if key in known:
        return known[key]
    found = compute()
    if store is not None:
        latest = list(known.items())[1 - _MOST_REMEMBERED :]
        with contextlib.suppress(OSError):
            store.parent.mkdir(parents=True, exist_ok=True)
            temporary = store.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(dict([*latest, (key, found)])), "utf-8")
            temporary.replace(store)
    return found


def _bytes_digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def _store() -> Path | None:
    """Where digests are remembered; None where the user has no home, as in some containers."""
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            return None
    return Path(base) / "ume" / "digests.json"
