"""Saving the sound rows of a damaged table, in a process of its own.

Decoders that are given damaged bytes panic, allocate what a damaged length says, or end the
process. None of that must reach the user, so the reading is done where it does no harm; what it
committed before it died counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ume_core.errors import InvalidOption, UmeError
from ume_r1.index.description import Description, read_description
from ume_r1.index.errors import DamagedIndex
from ume_r1.index.table import PAGE, Checked, Table, copy_rows

_SMALLEST = 32  # rows given up together
_SECONDS = 3600
_REFUSED = 3


def salvage(directory: Path, about: Description) -> None:
    """Make the next generation's table from the sound rows of the present one.

    Raises:
        InvalidOption: the operating system refused a file; nothing is given up then.
    """
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where a panic is printed
        )
    except OSError as error:
        raise _failed(directory, error.strerror or str(error)) from error
    with child:
        try:
            status = child.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        said = child.stdout.read() if child.stdout else b""
    if status == _REFUSED:
        refused = json.loads(said)
        raise InvalidOption(refused["cause"], fix=refused["fix"])
    if status > 0:  # not a signal: it could not even begin
        raise _failed(directory, f"exit status {status}")
    try:
        Table(directory, about.generation + 1, about.schema)
    except DamagedIndex:  # it died before the first row
        Table(directory, about.generation + 1, about.schema, create=True)


def _failed(directory: Path, reason: str) -> InvalidOption:
    return InvalidOption(
        f"the process that repairs {directory} failed ({reason})",
        fix=f"ume index FOLDER --to {directory} --rebuild",
    )


def _main(directory: Path) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        about = read_description(directory)
        new = Table(directory, about.generation + 1, about.schema, create=True)
        try:
            old = Table(directory, about.generation, about.schema)
            copy_rows(_readable(old), new)
        except DamagedIndex:  # not one row can be read
            return 0
    except UmeError as error:
        print(json.dumps({"cause": error.cause, "fix": error.fix}))
        return _REFUSED
    return 0


def _end_with_parent() -> None:
    """The parent holds the index's lock: when it is killed, somebody else may be writing."""
    os.read(0, 1)  # not `sys.stdin`, whose lock Python wants when it ends
    os._exit(1)


def _readable(table: Table) -> Iterator[Checked]:
    for offset in range(0, len(table), PAGE):
        yield from _halves(table, offset, PAGE)


def _halves(table: Table, offset: int, count: int) -> Iterator[Checked]:
    """The rows of a range; one that cannot be read is halved until its parts can."""
    try:
        page = table.page(offset, count)
    except DamagedIndex:
        if count > _SMALLEST:
            yield from _halves(table, offset, count // 2)
            yield from _halves(table, offset + count // 2, count // 2)
    else:
        yield page


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
