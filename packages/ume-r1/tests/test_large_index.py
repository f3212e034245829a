"""A table of 100,000 rows and more: approximate search and compaction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ume_core.testing import FakeEmbedder
from ume_r1.index import Description, Index, build_index
from ume_r1.index.rows import with_checks
from ume_r1.index.shelf import Shelf
from ume_r1.index.snapshot import known_rows
from ume_r1.index.table import Table, table_folder
from ume_r1.index.writer import writing

ROWS, DIMENSIONS = 3000, 32
Run = Callable[..., tuple[int, str, str]]


def vectors(seed: int, count: int) -> np.ndarray:
    """Unit vectors in clusters."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIMENSIONS))
    drawn = centres[rng.integers(0, 40, count)] + 0.4 * rng.standard_normal((count, DIMENSIONS))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def rows_of(index: Index, names: list[str], seed: int, **cells: str) -> pa.Table:
    """Rows of these names with drawn vectors, as they are stored."""
    drawn = vectors(seed, len(names))
    columns: dict[str, Any] = {
        "path": names, "digest": [f"{seed}{name}" for name in names],
        "kind": ["text"] * len(names), "date": [cells.get("date", "2025-01-01")] * len(names),
        "status": ["ok"] * len(names), "thinking": [""] * len(names), "summary": [""] * len(names),
        "disc": pa.FixedSizeListArray.from_arrays(drawn.ravel(), DIMENSIONS),
    }  # fmt: skip
    return with_checks(columns, index.description.schema)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 3,000 rows that counts as large; copied, not used."""
    place = tmp_path_factory.mktemp("large")
    (place / "files").mkdir()
    model = FakeEmbedder(dimensions=DIMENSIONS)
    index = Index.create(
        place / "index", Description.of(model, place / "files", "disc", name="fake")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ume_r1.index.writer.ANN_ROWS", 1000)
        with writing(index) as writer:
            for start in range(0, ROWS, 100):  # 30 commits, so that there is what to compact
                names = [f"d{n % 7}/f{n:05}.txt" for n in range(start, start + 100)]
                writer.copy(rows_of(index, names, start), names)
            writer.finish()
            assert writer.recall["disc"] > 0.9
    return place / "index"


@pytest.fixture
def index(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setattr("ume_r1.index.writer.ANN_ROWS", 1000)
    monkeypatch.setattr("ume_r1.index.writer._UNINDEXED", 100)
    monkeypatch.setattr("ume_r1.index.seal.CHEAP_BYTES", 1000)  # a large table has no copy
    shutil.copytree(made, tmp_path / "index")
    yield Index.open(tmp_path / "index")


def table_of(index: Index) -> Table:
    about = index.description
    return Table(index.directory, about.generation, about.schema)


def truth(index: Index, query: np.ndarray, top: int = 10) -> list[str]:
    """The nearest by numpy, over all that LanceDB gives without a search."""
    import lancedb

    name = table_folder(index.directory, index.description.generation).stem
    rows = lancedb.connect(str(index.directory / "lance")).open_table(name).to_arrow()
    stored = np.array(rows["disc"].to_pylist(), np.float32)
    names = rows["path"].to_pylist()
    return [names[n] for n in np.argsort(-(stored @ query), kind="stable")[:top]]


def test_approximate_search_finds_what_exact_search_finds_and_scores_it_exactly(
    index: Index,
) -> None:
    assert table_of(index).indexed() == {"disc": 0}
    found = 0
    for query in vectors(7, 20):
        near, true = index.search(query, "disc", 10), index.search(query, "disc", 10, exact=True)
        assert [hit.name for hit in true] == truth(index, query)
        scores = {hit.name: hit.score for hit in true}
        for hit in near:
            assert hit.score == pytest.approx(scores.get(hit.name, hit.score), abs=1e-6)
        assert [hit.score for hit in near] == sorted((h.score for h in near), reverse=True)
        found += len({hit.name for hit in near} & set(scores))
    assert found / 200 > 0.95


def test_the_index_is_of_the_metric_that_the_query_asks_for(index: Index) -> None:
    """Trap: an index of l2, its default, answers queries by l2."""
    import lancedb

    name = table_folder(index.directory, index.description.generation).stem
    table = lancedb.connect(str(index.directory / "lance")).open_table(name)
    (only,) = table.list_indices()
    stats = table.index_stats(only.name)
    assert only.columns == ["disc"] and stats is not None and stats.distance_type == "dot"


def test_merge_insert_matches_after_optimize(index: Index) -> None:
    """Trap: lancedb#3177: with a scalar index on the key, rows are doubled; so there is none."""
    names = [f"d{n % 7}/f{n:05}.txt" for n in range(300)]
    table = table_of(index)
    table.optimize()
    table.put(rows_of(index, names, 77))
    assert len(table) == ROWS
    table.optimize()
    table.put(rows_of(index, names, 78))
    assert len(table) == ROWS and len(known_rows(table)) == ROWS
    digests = set(table.fetch(names)["digest"].to_pylist())
    assert digests == {f"78{name}" for name in names}


def test_rows_that_the_index_lacks_are_found(index: Index) -> None:
    """Trap: rows that came after the index are not in it."""
    with writing(index) as writer:
        names = [f"new/f{n}.txt" for n in range(50)]
        rows = rows_of(index, names, 5)
        writer.copy(rows, names)
        writer.finish()
    assert table_of(index).indexed() == {"disc": 50}
    query = np.array(rows["disc"][3].as_py(), np.float32)
    assert index.search(query, "disc", 1)[0].name == "new/f3.txt"


def test_many_rows_without_an_index_are_indexed_at_the_runs_end(index: Index) -> None:
    with writing(index) as writer:
        for start in range(0, 500, 20):
            names = [f"new/f{n}.txt" for n in range(start, start + 20)]
            writer.copy(rows_of(index, names, start), names)
        writer.finish()
    table = table_of(index)
    assert table.indexed() == {"disc": 0} and table.fragments() <= 2 and len(index) == ROWS + 500


def test_a_strict_filter_leaves_as_many_hits_as_fit(index: Index) -> None:
    """Trap: lancedb#2762: a filter after the search leaves few of what was found."""
    with writing(index) as writer:
        names = [f"rare/f{n}.txt" for n in range(15)]
        writer.copy(rows_of(index, names, 5, date="2020-03-04T05:06:07"), names)
        writer.finish()
    for query in vectors(8, 5):
        ways: list[dict[str, Any]] = [{"under": "rare"}, {"until": "2020"}, {"until": "2020-03-04"}]
        for wanted in ways:
            hits = index.search(query, "disc", 10, **wanted)
            assert len(hits) == 10 and all(hit.name.startswith("rare/") for hit in hits)
        assert len(index.search(query, "disc", 40, since="2020", until="2020-12")) == 15
        assert index.search(query, "disc", 5, kind="video") == []


def test_a_table_too_small_to_train_an_index_is_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap: lancedb#1465: under 256 rows no quantiser can be trained."""
    model = FakeEmbedder(dimensions=DIMENSIONS)
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / f"{number}.txt").write_text(f"text {number}")
    index = Index.create(
        tmp_path / "index", Description.of(model, tmp_path / "files", "disc", name="fake")
    )
    report = build_index(index, tmp_path / "files", model)
    assert report.recall == {} and table_of(index).indexed() == {}
    monkeypatch.setattr("ume_r1.index.seal.CHEAP_BYTES", 100)
    query = model.embed(["text 3"]).vectors("disc")[0]
    assert index.search(query, "disc", 1)[0].name == "3.txt"


def test_disk_does_not_grow_with_small_commits(index: Index) -> None:
    """Trap: xagent PR 1195: 40,000 rows in small commits became 15 GB."""
    payload = ROWS * 4 * DIMENSIONS
    for number in range(30):
        with writing(index) as writer:
            writer.copy(rows_of(index, ["grows.txt"], number), ["grows.txt"])
            writer.finish()
    stored = sum(p.stat().st_size for p in index.directory.rglob("*") if p.is_file())
    assert table_of(index).fragments() <= 25 and stored < 6 * payload
    assert len(index) == ROWS + 1


def test_memory_does_not_grow_with_merges(index: Index) -> None:
    """Trap: lance#1983: every merge_insert of a session keeps memory."""
    names = [f"d{n % 7}/f{n:05}.txt" for n in range(100)]
    rows = rows_of(index, names, 1)
    table = table_of(index)

    def merge(times: int) -> int:
        for _ in range(times):
            table.put(rows)
        with Path("/proc/self/statm").open() as file:
            return int(file.read().split()[1]) * 4096

    first = merge(30)
    assert merge(40) - first < 48 << 20


def test_searches_go_on_while_a_large_table_is_compacted(index: Index) -> None:
    query = vectors(9, 1)[0]
    before = Index.open(index.directory)
    assert len(before.search(query, "disc", 5)) == 5
    with writing(index) as writer:
        for n in range(30):
            writer.copy(rows_of(index, [f"n{n}.txt"], n), [f"n{n}.txt"])
        writer.finish()
    assert index.description.generation > before.description.generation
    assert len(before.search(query, "disc", 5)) == 5 and len(before) == ROWS + 30


def test_a_disk_without_links_is_compacted_all_the_same(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with writing(index) as writer:
        for n in range(30):
            writer.copy(rows_of(index, [f"n{n}.txt"], n), [f"n{n}.txt"])
        writer.finish()
    assert table_of(index).indexed() == {"disc": 0} and len(index) == ROWS + 30
    assert len(list((index.directory / "lance").iterdir())) == 1


def test_a_compaction_that_is_killed_changes_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Table, "optimize", die)
        with writing(index) as writer:
            for n in range(30):
                writer.copy(rows_of(index, [f"n{n}.txt"], n), [f"n{n}.txt"])
            writer.finish()
    with writing(Index.open(index.directory), verify=True) as writer:
        assert not writer.damaged and len(writer.known) == ROWS + 30
        writer.finish()
    again = Index.open(index.directory)
    assert len(again) == ROWS + 30 and len(list((index.directory / "lance").iterdir())) == 1


def test_a_large_index_can_be_moved(index: Index, tmp_path: Path) -> None:
    query = vectors(9, 1)[0]
    before = [(hit.name, hit.score) for hit in index.search(query, "disc", 5)]
    (tmp_path / "elsewhere").mkdir()
    index.directory.rename(tmp_path / "elsewhere" / "renamed")
    moved = Index.open(tmp_path / "elsewhere" / "renamed")
    assert [(hit.name, hit.score) for hit in moved.search(query, "disc", 5)] == before
    assert table_of(moved).indexed() == {"disc": 0}


def test_what_a_run_knows_of_many_files_is_not_held_in_memory() -> None:
    """Shelves of 300,000 files, of which dicts hold 120 MB and more."""
    import resource

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def entries() -> Iterator[tuple[str, tuple[str, str]]]:
        return ((f"{n // 1000:04}/{n:09}.txt", ("text", f"{n:064x}")) for n in range(300_000))

    shelf: Shelf[tuple[str, str]] = Shelf("kind", "digest")
    before = peak()
    shelf.extend(entries())
    assert sum(1 for _ in shelf.items()) == len(shelf) == 300_000
    assert shelf["0123/000123456.txt"] == ("text", f"{123456:064x}")
    assert shelf.find(kind="text", digest=f"{123456:064x}") == "0123/000123456.txt"
    assert peak() - before < 60 << 20
