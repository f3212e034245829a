"""The files of a table as a run left them: sizes and digests, so that damage is noticed and named.

LanceDB stores no checksums, and opens an older state where the newest manifest is missing or all
zeros. Its files never change once written, so a file that is not as it was sealed is damaged.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

from ume_r1.index.description import SealedFile
from ume_r1.index.disk import digest_of, sync
from ume_r1.index.errors import disk_error

# Bytes read to check a table that is only opened; larger tables are checked in part, by chance.
CHEAP_BYTES = 64 * 1024 * 1024
# Hints and logs of transactions, without effect on what is read.
_UNSEALED = ("_transactions", "latest_version_hint.json")


def table_files(folder: Path) -> list[str]:
    """Files that decide what a table holds, by their path in it, those read first first.

    Raises:
        InvalidOption: a directory cannot be read.
    """
    found: list[str] = []
    for place, folders, files in _walk(folder):
        folders[:] = [f for f in folders if f not in _UNSEALED]
        found += [
            (Path(place) / f).relative_to(folder).as_posix() for f in files if f not in _UNSEALED
        ]
    return sorted(found, key=lambda name: (name.startswith("data/"), name))


def seal(folder: Path, before: dict[str, SealedFile]) -> dict[str, SealedFile]:
    """Put a table on disk and describe its files.

    Args:
        folder: the table's.
        before: the last seal, whose files are not read again.

    Raises:
        InvalidOption: the disk reports an error.
    """
    sealed: dict[str, SealedFile] = {}
    for name in table_files(folder):
        path = folder / name
        sync(path)
        known = before.get(name)
        sealed[name] = known or SealedFile(path.stat().st_size, _digest(path))
    for place, _, _ in _walk(folder):
        sync(Path(place))
    return sealed


def damaged_files(folder: Path, sealed: dict[str, SealedFile], *, wholly: bool) -> list[str]:
    """Sealed files that are gone or not as they were.

    Args:
        folder: the table's.
        sealed: its seal.
        wholly: read every file; else sizes of all, and the content of small ones and of others
            drawn by chance, up to `CHEAP_BYTES`.

    Raises:
        InvalidOption: a file cannot be read (which does not say that it is damaged).
    """
    found: list[str] = []
    left = CHEAP_BYTES
    # Manifests first: they are small, and decide most.
    for name in sorted(sealed, key=lambda n: (n.startswith("data/"), random.random())):
        path, file = folder / name, sealed[name]
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                found.append(name)
            elif wholly or file.size <= left:
                left -= file.size
                if _digest(path) != file.digest:
                    found.append(name)
        except (FileNotFoundError, NotADirectoryError):
            found.append(name)
        except OSError as error:
            raise disk_error(error, path) from error
    return sorted(found)


def manifest_version(stem: str) -> int:
    """The version of a table that a manifest describes, told by its name.

    Lance names them backwards, so that the newest is listed first (its "V2" scheme).
    """
    number = int(stem)
    return 2**64 - 1 - number if number >= 2**63 else number


def sealed_version(sealed: dict[str, SealedFile]) -> int | None:
    """The newest version of the table when it was sealed."""
    names = [Path(name) for name in sealed if name.startswith("_versions/")]
    return max((manifest_version(p.stem) for p in names if p.stem.isdigit()), default=None)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def refuse(error: OSError) -> None:
        raise disk_error(error, Path(error.filename or folder)) from error

    return os.walk(folder, onerror=refuse)  # which otherwise passes over what it cannot read


def _digest(path: Path) -> str:
    return digest_of(path, hashlib.blake2b(digest_size=16))
