"""Writing and removing files of an index; what the operating system refuses is our error."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ume_r1.index.errors import disk_error

_BLOCK = 1 << 20


class Hash(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Take more data."""
        ...

    def hexdigest(self) -> str:
        """The digest of all data."""
        ...


def is_local(path: Path) -> bool:
    """Whether it is on a disk, and not what stands for a place on an object store."""
    return isinstance(path, Path)


def absolute(directory: Path) -> str:
    """A directory's absolute path or URI."""
    return str(directory.resolve() if is_local(directory) else directory).rstrip("/")


def write_whole(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Replace a file in one step; its content is on disk when this returns.

    Args:
        path: the file.
        data: its content, or what writes it.

    Raises:
        InvalidOption: the disk refuses it.
    """
    if not is_local(path):  # an object is replaced in one step
        whole = io.BytesIO()
        if isinstance(data, bytes):
            whole.write(data)
        else:
            data(whole)
        try:
            path.write_bytes(whole.getvalue())
        except OSError as error:
            raise disk_error(error, path) from error
        return
    part = temporary(path)
    try:
        for place in (path, part):
            if place.is_dir():  # nothing of ours, and it cannot be replaced
                remove(place)
        with part.open("wb") as handle:
            if isinstance(data, bytes):
                handle.write(data)
            else:
                data(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
    except OSError as error:
        raise disk_error(error, path) from error
    sync(path.parent)


def temporary(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f".{path.name}.tmp")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on disk.

    Raises:
        InvalidOption: the disk reports an error.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise disk_error(error, path) from error


def digest_of(path: Path, digest: Hash) -> str:
    """The hexadecimal digest of a file's content, read block by block.

    Args:
        path: the file.
        digest: a new hash, such as `hashlib.sha256()`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def entries(directory: Path) -> list[Path]:
    """What a directory holds, sorted; nothing if it is not there.

    `Path.glob` will not do: it passes over directories that cannot be read.

    Raises:
        InvalidOption: it cannot be read.
    """
    try:
        return sorted(directory.iterdir(), key=str)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise disk_error(error, directory) from error


def is_there(path: Path) -> bool:
    """Whether a file or folder is there, readable or not."""
    try:
        path.stat()
    except OSError as error:
        return not isinstance(error, (FileNotFoundError, NotADirectoryError))
    return True


def remove(path: Path) -> None:
    """Delete a file, or a directory with all in it, if it is there.

    Raises:
        InvalidOption: the operating system refuses it.
    """
    try:
        if not is_local(path):
            files: Any = path
            with suppress(FileNotFoundError):
                files.fs.rm(files.path, recursive=True)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def link_tree(folder: Path, to: Path) -> bool:
    """Make a folder of links to all files below another; whether the file system has links.

    Raises:
        InvalidOption: the operating system refuses something else.
    """
    remove(to)
    try:
        shutil.copytree(folder, to, copy_function=os.link)
    except (OSError, shutil.Error) as error:
        remove(to)
        numbers = {error.errno} if isinstance(error, OSError) and error.errno else {errno.EPERM}
        if numbers & {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOTSUP, errno.EXDEV}:
            return False
        raise disk_error(error, folder) from error
    return True
