"""Errors of the index: what the disk refused, and what is not as it was written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ume_core.errors import InvalidOption, UmeError

_FIXES = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EROFS: "remount it writable, or put the index on another disk",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
    errno.ENFILE: "close other programs, then run the same command again",
    errno.EISDIR: "remove that folder, then run the same command again",
    errno.EIO: "check the disk, then run the same command again",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # a file of the index is gone or no file


class DamagedIndex(InvalidOption):
    """A file or a row of an index is missing, or is not as it was written.

    Attributes:
        what: the file, or the indexed file whose row it is.
    """

    def __init__(self, directory: Path, what: object, *, fix: str = "") -> None:
        self.what = str(what)
        fix = fix or f"ume index FOLDER --to {directory}, which embeds again what is damaged"
        super().__init__(f"{directory} is damaged: {what}", fix=fix)


def disk_error(error: OSError, path: Path) -> InvalidOption:
    """The error for a file of the index that the operating system refused."""
    fix = _FIXES.get(error.errno or 0, "check the path, its permissions and the disk")
    return InvalidOption(f"{path}: {error.strerror or error}", fix=fix)


@contextmanager
def library_errors(directory: Path, what: str) -> Generator[None]:
    """Turn what LanceDB raises into our errors.

    LanceDB raises RuntimeError, ValueError or OSError with the operating system's error number in
    the text, if there is one, and, for bytes that its decoders did not foresee, a Rust panic,
    which is no `Exception`.

    Args:
        directory: of the index.
        what: the table, for the message.

    Raises:
        InvalidOption: the operating system refused something; with the fix.
        DamagedIndex: anything else.
    """
    try:
        yield
    except (UmeError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        found = _OS_ERROR.search(str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number and number not in _LOST:
            raise disk_error(OSError(number, os.strerror(number)), directory / what) from error
        raise DamagedIndex(directory, f"{what} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """The library's reason without the places in its source."""
    text = re.sub(r", (/\S+\.rs:\d+:\d+|\S+/src/\S+)", "", str(error))
    text = " ".join(text.removeprefix("lance error: ").split())
    return text if len(text) <= 160 else text[:150] + "…"
