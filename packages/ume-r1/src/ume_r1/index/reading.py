"""Reading a file of the indexed folder, with the digest of the very bytes that were read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from ume_core.limits import Limits
from ume_r1.index.seen import Stamp

_BLOCK = 1 << 20
_TRIES = 3  # readings of a file that changes meanwhile
T = TypeVar("T")


class Unreadable(Exception):
    """A file that cannot be indexed as it is.

    Attributes:
        reason: why, as the end of a sentence about the file.
        replaced: whether it certainly is not the content that was indexed under its name.
    """

    def __init__(self, reason: str, *, replaced: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.replaced = reason, replaced


@dataclass(frozen=True)
class Content:
    """What was read of a file.

    Attributes:
        data: all its bytes.
        digest: their SHA-256, hexadecimal.
        stamp: of the file, the same before and after.
    """

    data: bytes
    digest: str
    stamp: Stamp


def stamp_file(folder: Path, name: str) -> Stamp:
    """The stamp of a file, without reading it.

    Args:
        folder: the indexed folder, resolved.
        name: the file's path in it.

    Raises:
        Unreadable: it cannot be indexed.
    """
    with _errors():
        return _checked(_locate(folder, name).stat())


def digest_file(folder: Path, name: str) -> tuple[str, Stamp]:
    """The SHA-256 of a file's content, without holding it (see `stamp_file`)."""

    def work(handle: BinaryIO) -> str:
        digest = hashlib.sha256()
        while block := handle.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest()

    return _steady(folder, name, work)


def read_file(folder: Path, name: str) -> Content:
    """The content of a file (see `stamp_file`)."""
    data, stamp = _steady(folder, name, lambda handle: handle.read(Limits().file_bytes + 1))
    return Content(data, hashlib.sha256(data).hexdigest(), stamp)


def _steady(folder: Path, name: str, work: Callable[[BinaryIO], T]) -> tuple[T, Stamp]:
    """Read a file that stays as it is meanwhile."""
    for _ in range(_TRIES):
        with _errors():
            # Not blocking: the name may have become a pipe's since it was looked at.
            handle = os.open(_locate(folder, name), os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as opened:
                before = _checked(os.fstat(handle))
                found = work(opened)
                if _checked(os.fstat(handle)) == before:
                    return found, before
    raise Unreadable("it changes while it is read")


def _locate(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Unreadable("its name is not valid UTF-8") from None
    if not path.is_symlink():
        return path
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, RuntimeError):  # RuntimeError: links in a circle (Python < 3.13)
        raise Unreadable("it is a broken link") from None
    if not real.is_relative_to(folder):
        raise Unreadable("it is a link that leads out of the folder", replaced=True)
    return real


def _checked(status: os.stat_result) -> Stamp:
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("it is not a regular file", replaced=True)
    check_size(status.st_size)
    return Stamp.of(status)


def check_size(size: int) -> None:
    """Refuse an empty file, and one that exceeds the limit.

    Raises:
        Unreadable: it is one.
    """
    if size > Limits().file_bytes:
        raise Unreadable(f"its {size:,} bytes exceed limits.file_bytes", replaced=True)
    if size == 0:
        raise Unreadable("it is empty (0 bytes)", replaced=True)


@contextmanager
def _errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
