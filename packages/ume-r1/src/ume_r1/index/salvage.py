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
from contextlib import suppress
from pathlib import Path

from ume_core.errors import InvalidOption, UmeError
from ume_r1.index.description import Description, read_description
from ume_r1.index.disk import entries, remove
from ume_r1.index.errors import DamagedIndex
from ume_r1.index.seal import manifest_version, sealed_version
from ume_r1.index.table import PAGE, Checked, Table, copy_rows, table_folder

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
        with suppress(DamagedIndex):  # what was saved until then counts
            copy_rows(_pages(directory, about), new)
    except UmeError as error:
        print(json.dumps({"cause": error.cause, "fix": error.fix}))
        return _REFUSED
    return 0


def _end_with_parent() -> None:
    """The parent holds the index's lock: when it is killed, somebody else may be writing."""
    os.read(0, 1)  # not `sys.stdin`, whose lock Python wants when it ends
    os._exit(1)


def _pages(directory: Path, about: Description) -> Iterator[Checked]:
    """Every row that can be read; where some cannot, also as the last whole run left them.

    A failed commit may have damaged rows that it did not mean, by a list of deleted rows that was
    not written whole. Older rows do no harm: one of a path that was saved already is passed over,
    and one that is out of date is found to be so.
    """
    table = _newest(directory, about)
    if table is None:
        return
    complete = True
    for page in _readable(table):
        complete = complete and page is not None
        if page is not None:
            yield page
    version = sealed_version(about.sealed)
    if not complete and version is not None:
        table.checkout(version)
        yield from (page for page in _readable(table) if page is not None)


def _newest(directory: Path, about: Description) -> Table | None:
    """The newest state of the table that can be opened; damaged manifests are removed."""
    folder = table_folder(directory, about.generation) / "_versions"
    while True:
        try:
            return Table(directory, about.generation, about.schema)
        except DamagedIndex:
            manifests = [p for p in entries(folder) if p.stem.isdigit() and p.suffix == ".manifest"]
            if not manifests:
                return None
            remove(max(manifests, key=lambda path: manifest_version(path.stem)))


def _readable(table: Table) -> Iterator[Checked | None]:
    """All rows; None for each that cannot be read."""
    try:
        rows = len(table)
    except DamagedIndex:
        yield None
        return
    for offset in range(0, rows, PAGE):
        yield from _halves(table, offset, min(PAGE, rows - offset))


def _halves(table: Table, offset: int, count: int) -> Iterator[Checked | None]:
    """The rows of a range; one that cannot be read is halved until its parts can."""
    try:
        page = table.page(offset, count)
    except DamagedIndex:
        if count == 1:
            yield None
            return
        yield from _halves(table, offset, count // 2)
        yield from _halves(table, offset + count // 2, count - count // 2)
    else:
        yield page


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
