"""What is done to an index under faults, and what must be true afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tools.faults.process import Ended, fake, run
from ume_core.items import as_item
from ume_core.limits import Limits
from ume_core.options import LoadOptions
from ume_core.testing.contract import picture
from ume_r1.files import item_from_file

_ENGINE = ("--engine", "fake", "--model", "ume-nano")
_OURS = {".lock", "lance", "rows.arrow", "seen.parquet", "ume-index.json"}


@dataclass(frozen=True)
class Scenario:
    """One kind of run of `ume index`.

    Attributes:
        folder: the indexed folder, as the run finds it.
        base: the index before the run; None where it is created.
        gone: names that must not be on disk after it.
        arguments: further ones of `ume index`.
    """

    name: str
    folder: Path
    base: Path | None
    gone: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def fresh(self, index: Path) -> Path:
        """The index before the run, at `index`."""
        shutil.rmtree(index, ignore_errors=True)
        if self.base is not None:
            shutil.copytree(self.base, index, symlinks=True)
        return index

    def command(self, index: Path, *more: str) -> Callable[[], int]:
        """The run."""
        new = _ENGINE if self.base is None or "--rebuild" in self.arguments + more else ()
        arguments = [str(self.folder), "--to", str(index), *new, "--mode", "both"]
        return lambda: main(["index", *arguments, *self.arguments, *more])

    @cached_property
    def unchanged(self) -> set[str]:
        """Files that the index held before the run as they are."""
        if self.base is None or "--rebuild" in self.arguments:
            return set()
        before, now = self.stored(self.base), expected(self.folder)
        return {name for name in before if before[name] == now.get(name)}

    def stored(self, index: Path) -> dict[str, str]:
        """What an index holds, in the form of `expected`."""

        def look() -> int:
            print(json.dumps(_contents(index)))
            return 0

        ended = run(look, index)
        if ended.status:
            raise ValueError(ended.said[-300:])
        return json.loads(ended.said)

    def problems(self, index: Path) -> list[str]:
        """What is wrong with an index that should be complete; all read without our own code."""

        try:
            found = self.stored(index)
        except ValueError as error:
            return [f"cannot be read: {error}"]
        right = expected(self.folder)
        wrong = [f"{n}: lost" for n in right if n not in found]
        wrong += [f"{n}: not expected" for n in found if n not in right]
        wrong += [f"{n}: wrong" for n in right if n in found and found[n] != right[n]]
        names = {path.name for path in index.iterdir()}
        wrong += [f"left behind: {name}" for name in names - _OURS]
        if len(list((index / "lance").iterdir())) != 1:
            wrong.append("left behind: a table")
        raw = b"".join(p.read_bytes() for p in (index / "lance").rglob("*") if p.is_file())
        wrong += [f"still on disk: {name}" for name in self.gone if name.encode() in raw]
        return wrong


def make(place: Path) -> list[Scenario]:
    """Make the folders and indexes of all scenarios below `place`."""
    made: list[Scenario] = []
    for name in ("create", "grow", "change", "rebuild"):
        folder, index = place / name, place / f"{name}-index"
        _files(folder, range(20))
        whole = Scenario(name, folder, None)
        if name != "create":
            ended = run(whole.command(index), index)
            if ended.status or whole.problems(index):
                raise RuntimeError(f"without a fault: {ended} {whole.problems(index)}")
        base = None if name == "create" else index
        if name == "grow":
            _files(folder, range(20, 32))
        if name == "change":
            for number in range(6):
                (folder / f"text-{number}.txt").rename(folder / "sub" / f"moved-{number}.txt")
            for number in range(6, 9):
                (folder / f"text-{number}.txt").unlink()
            (folder / "text-10.txt").write_text("edited")
            os.utime(folder / "text-11.txt", (1e9, 1e9))
            _files(folder, range(20, 26))
        gone = tuple(f"text-{n}.txt" for n in range(6, 9)) if name == "change" else ()
        extra = ("--rebuild",) if name == "rebuild" else ()
        made.append(Scenario(name, folder, base, gone, extra))
    repair = place / "repair-index"
    shutil.copytree(place / "rebuild-index", repair)
    data = next((repair / "lance").rglob("data/*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    return [*made, Scenario("repair", place / "rebuild", repair)]


def search(index: Path, text: str) -> Callable[[], int]:
    """`ume search` for a text."""
    return lambda: main(["search", str(index), text, "--top", "1"])


def complaint(ended: Ended) -> str | None:
    """What is wrong with how a command ended under a fault; None if that is as it should be."""
    if ended.status in (0, -9):
        return None
    if ended.status != 2 or not re.search(r"^ume: .*\. Fix: .", ended.said, re.MULTILINE):
        return f"ended with {ended.status}: {ended.said[-400:]}"
    found = re.search(r"Traceback|panicked|\.rs:\d|lance error", ended.said)
    return f"the library shows: {ended.said[-400:]}" if found else None


def expected(folder: Path) -> dict[str, str]:
    """What an index of a folder must hold: path -> digest of the content and its vectors."""
    model = fake(None, LoadOptions(), None)
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        result = model.embed([as_item(item_from_file(path, Limits()))], mode="both")
        assert result.disc is not None and result.gen is not None
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        found[name] = _digest(content, result.disc[0].tobytes(), result.gen[0].tobytes())
    return found


def _contents(index: Path) -> dict[str, str]:
    """The same of what is stored, read by LanceDB itself."""
    import lancedb

    about = json.loads((index / "ume-index.json").read_text())
    table = lancedb.connect(str(index / "lance")).open_table(f"items-{about['generation']}")
    rows = table.to_arrow().to_pylist()
    if len({row["path"] for row in rows}) != len(rows):
        raise ValueError("a path has two rows")
    vectors = [[np.array(row[m], np.float32).tobytes() for m in ("disc", "gen")] for row in rows]
    return {
        row["path"]: _digest(row["digest"], *pair) for row, pair in zip(rows, vectors, strict=True)
    }


def _digest(content: str, *vectors: bytes) -> str:
    return hashlib.sha256(content.encode() + b"".join(vectors)).hexdigest()[:16]


def _files(folder: Path, numbers: range) -> None:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        if number % 10 == 9:
            picture(number).save(folder / "sub" / f"picture-{number}.png")
        else:
            (folder / f"text-{number}.txt").write_text(f"text number {number}")


def main(arguments: list[str]) -> int:
    """`ume`, imported late: it is to run in children only."""
    from ume_r1.cli import main as ume

    return ume(arguments)
