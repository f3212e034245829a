"""What commands print: in whatever encoding, and of errors of the operating system."""

from __future__ import annotations

import errno
import io
import sys

_FIXES = {
    errno.ENOSPC: "free space on its disk, or name another place",
    errno.EDQUOT: "free space in your quota, or name another place",
    errno.EFBIG: "allow larger files: ulimit -f unlimited",
    errno.EROFS: "name a place on a disk that is not read-only",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "close programs that hold many files open",
    errno.ENOMEM: "free memory",
    errno.EIO: "check the disk: it fails to read or write",
}


def escape_missing_characters() -> None:
    r"""Make standard output and error escape what their encoding lacks (`\u72ac`), not fail.

    A terminal's encoding may be ASCII or cp1252, and a file's name need not be valid Unicode; work
    that is done must not be lost over how it is shown.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None without a terminal; anything in tests
            stream.reconfigure(errors="backslashreplace")


def system_fix(error: OSError) -> str:
    """What to do about an error of the operating system."""
    return _FIXES.get(error.errno or 0, "check the path and the disk it is on")
