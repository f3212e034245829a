"""Saving the sound rows of a damaged table, in a process of its own.

Decoders that are given damaged bytes panic, allocate what a damaged length says, or end the
process. None of that must reach the user, so the reading is done where it does no harm; what it
committed before it died counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
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
        child = subprocess.run(
            [sys.executable, "-m", __name__, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where a panic is printed
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pass
    except OSError as error:
        raise InvalidOption(
            f"cannot start a process to repair {directory}: {error.strerror}",
            fix=f"ume index FOLDER --to {directory} --rebuild",
        ) from error
    else:
        if child.returncode == _REFUSED:
            said = json.loads(child.stdout)
            raise InvalidOption(said["cause"], fix=said["fix"])
    try:
        Table(directory, about.generation + 1, about.schema)
    except DamagedIndex:  # it died before the first row
        Table(directory, about.generation + 1, about.schema, create=True)


def _main(directory: Path) -> int:
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
