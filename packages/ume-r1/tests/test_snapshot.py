"""The copy of a small index's rows gives what the table gives, or is not used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core.testing import FakeEmbedder
from ume_r1.index import Index, build_index, seal, snapshot
from ume_r1.index.description import read_description
from ume_r1.index.snapshot import Snapshot
from ume_r1.index.table import Table

Create = Callable[..., Index]


@pytest.fixture
def index(folder: Path, create: Create, model: FakeEmbedder) -> Index:
    """An index of both vectors."""
    made = create(folder, "both")
    build_index(made, folder, model)
    return made


def answers(index: Index, model: FakeEmbedder) -> list[list[tuple[str, float]]]:
    """Names and scores of some searches, narrowed and not."""
    vectors = model.embed(["the note of a", "something else"], mode="both")
    ways: list[dict[str, Any]] = [{}, {"kind": "text"}, {"under": "b"}, {"under": "no'where"}]
    ways.append({"kind": "image", "under": "a"})
    return [
        [
            (hit.name, hit.score)
            for hit in index.search(vectors.vectors(mode)[row], mode, top, **way)
        ]
        for mode in ("disc", "gen")
        for row in range(2)
        for top in (1, 3, 50)
        for way in ways
    ]


def test_the_copy_answers_as_the_table_does(index: Index, model: FakeEmbedder) -> None:
    quick = answers(Index.open(index.directory), model)
    (index.directory / snapshot.NAME).unlink()
    slow = answers(Index.open(index.directory), model)
    assert len(quick) == 60
    for mine, other in zip(quick, slow, strict=True):
        assert [name for name, _ in mine] == [name for name, _ in other]
        np.testing.assert_allclose([s for _, s in mine], [s for _, s in other], atol=1e-6)


def test_a_copy_that_is_damaged_stale_or_of_a_large_table_is_not_used(
    index: Index, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, about = index.directory, read_description(index.directory)
    path = directory / snapshot.NAME
    whole = path.read_bytes()
    assert isinstance(snapshot.read(directory, about), Snapshot)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (bytes(flipped), whole[:-8], whole + b"x", b""):
        path.write_bytes(data)
        assert snapshot.read(directory, about) is None
    path.write_bytes(whole)
    monkeypatch.setattr(seal, "CHEAP_BYTES", 1000)
    assert snapshot.read(directory, about) is None
    monkeypatch.undo()
    # A run that goes on, or was killed: the table has what the copy lacks.
    table = Table(directory, about.generation, about.schema)
    table.remove(["a/note.txt"])
    assert snapshot.read(directory, about) is None
    found = answers(Index.open(directory), model)
    assert found[0] and not any(name == "a/note.txt" for hits in found for name, _ in hits)


def test_a_run_that_finds_nothing_new_makes_a_lost_copy_again(
    index: Index, folder: Path, model: FakeEmbedder
) -> None:
    path = index.directory / snapshot.NAME
    whole = path.read_bytes()
    for data in (None, b"damaged"):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        report = build_index(index, folder, model)
        assert (report.embedded, report.unchanged) == (0, 6)
        assert path.read_bytes() == whole


def test_rows_of_deleted_files_leave_the_copy(
    index: Index, folder: Path, model: FakeEmbedder
) -> None:
    (folder / "a" / "note.txt").unlink()
    build_index(index, folder, model)
    assert b"a/note.txt" not in (index.directory / snapshot.NAME).read_bytes()
    assert len(Index.open(index.directory)) == 5


def test_reading_a_small_index_imports_no_lancedb(index: Index) -> None:
    code = (
        "import sys; from ume_r1.index import Index\n"
        "print(len(Index.open(sys.argv[1])), {'lancedb', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(index.directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6 set()"
