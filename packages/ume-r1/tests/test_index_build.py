"""Bringing an index up to date: what is embedded, copied, removed, kept and written."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ume_core import UmeError
from ume_core.embedder import Embedder
from ume_core.results import EmbeddingResult
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.index import Index, batches, build_index
from ume_r1.index.store import lock

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]


class During(FakeEmbedder):
    """Does something to the disk while it embeds, once."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(dimensions=32)
        self.action: Callable[[], object] | None = action

    def embed(self, items: Any, **options: Any) -> EmbeddingResult:
        if self.action is not None:
            self.action, action = None, self.action
            action()
        return super().embed(items, **options)


def stored(index: Index) -> dict[str, bytes]:
    """The index's files but the small ones that a run may always write."""
    return {
        str(p.relative_to(index.directory)): p.read_bytes()
        for p in (index.directory / "lance").rglob("*")
        if p.is_file()
    }


def first(index: Index, model: Embedder, item: Any) -> tuple[str, float]:
    """The most similar file to an item, and its cosine."""
    vectors = model.embed([item]).disc
    assert vectors is not None
    hit = index.search(vectors[0], "disc", 1)[0]
    return hit.name, round(hit.score, 3)


def many(folder: Path, count: int) -> list[Path]:
    """A folder of texts."""
    folder.mkdir()
    paths = [folder / f"secret{number}.txt" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(f"thing number {number}")
    return paths


def test_new_changed_moved_and_deleted_files(
    folder: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(folder)
    report = build_index(index, folder, model)
    assert (report.embedded, len(index)) == (6, 6)
    (folder / "a" / "p0.png").rename(folder / "b" / "renamed.png")
    picture(77).save(folder / "a" / "p1.png")
    (folder / "b" / "p0.png").unlink()
    report = build_index(index, folder, model)
    figures = (report.embedded, report.unchanged, report.moved, report.removed)
    assert figures == (1, 3, 1, 1) and not report.skipped and not report.kept
    assert first(index, model, picture(77)) == ("a/p1.png", 1.0)
    assert first(index, model, picture(0)) == ("b/renamed.png", 1.0)


def test_files_that_swap_names_are_copied_not_embedded(
    folder: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    a, b, other = (folder / name for name in ("a/p0.png", "b/p0.png", "a/other.png"))
    a.rename(other)
    b.rename(a)
    other.rename(b)
    report = build_index(index, folder, model)
    assert (report.embedded, report.moved, report.removed) == (0, 2, 0)
    assert first(index, model, picture(0)) == ("b/p0.png", 1.0)
    assert first(index, model, picture(2)) == ("a/p0.png", 1.0)


def test_the_same_bytes_under_another_kind_are_embedded_as_that_kind(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    picture(1).save(folder / "p.ppm")
    index = create(folder)
    build_index(index, folder, model)
    shutil.copy(folder / "p.ppm", folder / "p.txt")
    report = build_index(index, folder, model)
    assert "not UTF-8" in report.skipped["p.txt"] and list(index.known()) == ["p.ppm"]


# Absent is not deleted.


def test_rows_of_an_unreadable_folder_are_kept_and_named(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    scandir = os.scandir

    def fail(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr("ume_r1.index.listing.os.scandir", fail)
        report = build_index(index, folder, model, prune=True)
    assert report.removed == 0 and len(index) == 6
    assert set(report.kept) == {"b/note.txt", "b/p0.png", "b/p1.png"}
    assert "Permission denied" in report.skipped["b"]
    report = build_index(index, folder, model)
    assert (report.embedded, report.unchanged, report.kept) == (0, 6, {})


def test_rows_of_an_emptied_folder_are_kept_until_pruned(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    for path in (folder / "b").iterdir():
        path.unlink()
    status, out, err = run("index", folder, "--to", index, "--strict")
    assert status == 1 and "6 items" in out and "0 removed" in out
    assert "kept 3 items, b: it is empty" in err
    assert run("index", folder, "--to", index)[0] == 0
    status, out, _ = run("index", folder, "--to", index, "--strict", "--prune")
    assert status == 0 and "3 items" in out and "3 removed" in out


def test_an_empty_folder_keeps_the_whole_index(folder: Path, run: Run, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    folder.rename(tmp_path / "elsewhere")
    status, _, err = run("index", folder, "--to", index)
    assert status == 2 and "does not exist" in err
    folder.mkdir()
    status, out, err = run("index", folder, "--to", index, "--strict")
    assert status == 1 and "6 items" in out and "kept 6 items, the folder: it is empty" in err


@pytest.mark.parametrize(("deleted", "removed"), [(10, 10), (11, 0)])
def test_a_run_that_would_remove_most_of_an_index_asks_for_prune(
    tmp_path: Path, create: Create, model: FakeEmbedder, deleted: int, removed: int
) -> None:
    paths = many(tmp_path / "many", 20)
    index = create(tmp_path / "many")
    build_index(index, tmp_path / "many", model)
    for path in paths[:deleted]:
        path.unlink()
    (tmp_path / "many" / "new.txt").write_text("done all the same")
    report = build_index(index, tmp_path / "many", model)
    assert (report.embedded, report.removed) == (1, removed) and len(index) == 21 - removed
    assert all("--prune" in reason for reason in report.kept.values())
    assert len(report.kept) == deleted - removed
    report = build_index(index, tmp_path / "many", model, prune=True)
    assert len(index) == 21 - deleted and report.removed == deleted - removed


def test_moving_everything_is_no_removal(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    paths = many(tmp_path / "many", 20)
    index = create(tmp_path / "many")
    build_index(index, tmp_path / "many", model)
    (tmp_path / "many" / "deeper").mkdir()
    for path in paths:
        path.rename(tmp_path / "many" / "deeper" / path.name)
    report = build_index(index, tmp_path / "many", model)
    assert (report.embedded, report.moved, report.removed, len(index)) == (0, 20, 0, 20)
    assert not report.kept


def test_files_that_turn_unreadable_by_the_dozen_are_kept_too(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    paths = many(tmp_path / "many", 20)
    index = create(tmp_path / "many")
    build_index(index, tmp_path / "many", model)
    for path in paths:
        path.write_bytes(b"\xff")  # a disk that gives rubbish
    report = build_index(index, tmp_path / "many", model)
    assert len(report.skipped) == len(report.kept) == len(index) == 20


def test_a_file_that_cannot_be_read_keeps_its_row_and_one_with_other_content_does_not(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    for name in ("a/p0.png", "b/note.txt"):
        (folder / name).write_bytes(b"\xff damaged")
    (folder / "a" / "p1.png").write_bytes(b"")
    opened = os.open

    def fail(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith("b/p0.png"):
            raise OSError(5, "Input/output error")
        return opened(path, *rest, **named)

    picture(2).save(folder / "b" / "p0.png", compress_level=1)  # changed, so that it is read
    monkeypatch.setattr(os, "open", fail)
    report = build_index(index, folder, model)
    assert set(report.skipped) == {"a/p0.png", "a/p1.png", "b/note.txt", "b/p0.png"}
    assert set(report.kept) == {"b/p0.png"}
    assert set(index.known()) == {"a/note.txt", "b/p0.png", "b/p1.png"}


def test_links_are_indexed_where_they_lead_inside_and_kept_when_they_break(
    folder: Path, tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    picture(9).save(tmp_path / "outside.png")
    (folder / "in.png").symlink_to(folder / "a" / "p0.png")
    (folder / "out.png").symlink_to(tmp_path / "outside.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    index = create(folder)
    report = build_index(index, folder, model)
    assert "in.png" in index.known()
    assert "leads out" in report.skipped["out.png"] and "broken" in report.skipped["nowhere.png"]
    (folder / "a").rename(tmp_path / "a")  # what it leads to may be on a disk that is not there
    report = build_index(index, folder, model)
    assert set(report.kept) == {"in.png"} and "in.png" in index.known()


# The digest is of the bytes that were embedded.


def test_a_file_edited_during_a_run_gets_no_vector_of_its_former_content(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    old, new = picture(1), picture(2)
    old.save(folder / "a.png")
    index = create(folder)
    build_index(index, folder, During(lambda: new.save(folder / "a.png")))
    old.save(folder / "a (original).png")
    report = build_index(index, folder, model)
    assert (report.embedded, report.moved) == (1, 1)
    assert first(index, model, old) == ("a (original).png", 1.0)
    assert first(index, model, new) == ("a.png", 1.0)


def test_a_file_edited_after_it_was_compared_is_stored_as_it_was_embedded(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._CHUNK, "disc", 1)  # pyright: ignore[reportPrivateUsage]
    index = create(folder)
    build_index(index, folder, model)
    old, new = picture(21), picture(22)
    picture(20).save(folder / "x.png")
    old.save(folder / "y.png")
    build_index(index, folder, During(lambda: new.save(folder / "y.png")))  # as x is embedded
    assert first(index, model, new) == ("y.png", 1.0)
    old.save(folder / "z.png")
    assert build_index(index, folder, model).embedded == 1
    assert first(index, model, old) == ("z.png", 1.0)


def test_large_files_are_held_one_at_a_time_and_hashed_as_embedded(
    tmp_path: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_CHUNK_BYTES", 3000)
    folder = tmp_path / "files"
    folder.mkdir()
    texts = [f"{number}" * 1400 for number in range(5)] + ["x" * 9000]
    for number, text in enumerate(texts):
        (folder / f"t{number}.txt").write_text(text)
    sizes: list[int] = []

    class Watching(FakeEmbedder):
        def embed(self, items: Any, **options: Any) -> EmbeddingResult:
            sizes.append(sum(len(item.text) for item in items))
            return super().embed(items, **options)

    index = create(folder)
    build_index(index, folder, Watching(dimensions=32))
    assert sizes == [2800, 2800, 1400, 9000]
    for number, text in enumerate(texts):
        assert first(index, model, text) == (f"t{number}.txt", 1.0)


def test_a_file_that_changes_while_it_is_read_is_read_again_or_named(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = folder / "a" / "log.txt"
    log.write_text("line")
    fstat, changes = os.fstat, [3]

    def grow(handle: int) -> os.stat_result:
        before = fstat(handle)
        if changes[0] and os.path.samestat(before, log.stat()):
            changes[0] -= 1
            with log.open("a") as more:
                more.write(" more")
        return before

    monkeypatch.setattr(os, "fstat", grow)
    index = create(folder)
    build_index(index, folder, model)
    assert first(index, model, "line more more more") == ("a/log.txt", 1.0)
    changes[0] = 1000
    log.write_text("again")
    report = build_index(index, folder, model)
    assert report.skipped == {"a/log.txt": "it changes while it is read"}


def test_a_change_within_one_tick_of_the_clock_is_seen(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    path = folder / "x.txt"
    path.write_text("one")
    index = create(folder)
    build_index(index, folder, model)
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert build_index(index, folder, model).embedded == 1
    assert first(index, model, "two") == ("x.txt", 1.0)


# What is not needed is not done and not kept.


def test_a_run_without_changes_loads_no_model_and_one_with_touched_files_writes_no_vectors(
    folder: Path, run: Run, loads: list[Any], tmp_path: Path
) -> None:
    index = tmp_path / "index"
    (folder / "bad.png").write_bytes(b"no picture")
    assert "6 embedded" in run("index", folder, "--to", index)[1]
    assert len(loads) == 1
    before = stored(Index.open(index))
    for number, path in enumerate(p for p in folder.rglob("*") if p.is_file()):
        os.utime(path, (1e9 + number, 1e9))
    for _ in range(3):
        assert (
            "0 embedded, 6 unchanged, 0 moved, 0 removed, 1 skipped"
            in (run("index", folder, "--to", index)[1])
        )
    assert len(loads) == 1 and stored(Index.open(index)) == before


@pytest.mark.parametrize("deleted", [1, 199])
def test_deleted_rows_leave_the_disk(
    tmp_path: Path, create: Create, model: FakeEmbedder, deleted: int
) -> None:
    paths = many(tmp_path / "many", 200)
    index = create(tmp_path / "many", "both")
    build_index(index, tmp_path / "many", model)
    vectors = {p.name: model.embed([p.read_text()]).disc for p in paths}
    for path in paths[:deleted]:
        path.unlink()
    build_index(index, tmp_path / "many", model, prune=True)
    raw = b"".join(p.read_bytes() for p in index.directory.rglob("*") if p.is_file())
    for number, path in enumerate(paths):
        vector = vectors[path.name]
        assert vector is not None
        assert (path.name.encode() in raw) == (number >= deleted)
        assert (vector.tobytes() in raw) == (number >= deleted)


def test_the_index_does_not_grow_while_its_files_change(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    paths = many(tmp_path / "many", 50)
    index = create(tmp_path / "many")
    sizes: list[int] = []
    for turn in range(12):
        for path in paths[turn::12]:
            path.write_text(f"{turn} {path.name}")
        (tmp_path / "many" / f"new{turn}.txt").write_text(f"another {turn}")
        build_index(index, tmp_path / "many", model)
        sizes.append(sum(p.stat().st_size for p in index.directory.rglob("*") if p.is_file()))
    assert len(index) == 62 and max(sizes) < 1.6 * sizes[0]


def test_small_commits_are_merged(
    tmp_path: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._CHUNK, "disc", 1)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(batches, "_COMMIT_SECONDS", 0)
    monkeypatch.setattr("ume_r1.index.writer._COMMITS", 5)
    many(tmp_path / "many", 60)
    index = create(tmp_path / "many")
    build_index(index, tmp_path / "many", model)
    # Rewritten whenever it had doubled.
    assert len(index) == 60 and index.description.generation == 5
    assert len(list((index.directory / "lance").glob("*"))) == 1
    assert len(list((index.directory / "lance").rglob("data/*"))) < 10


def test_searching_goes_on_while_the_index_is_rewritten(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    paths = many(tmp_path / "many", 30)
    index = create(tmp_path / "many")
    build_index(index, tmp_path / "many", model)
    opened, found, over = Index.open(index.directory), [], threading.Event()

    def search() -> None:
        while not over.is_set():
            found.append(first(opened, model, "thing number 0"))

    reader = threading.Thread(target=search)
    reader.start()
    try:
        for turn in range(8):
            paths[-1].write_text(f"turn {turn}")
            build_index(index, tmp_path / "many", model)
    finally:
        over.set()
        reader.join()
    assert index.description.generation > 8
    assert len(found) > 8 and set(found) == {("secret0.txt", 1.0)}


def test_two_writers_do_not_mix(folder: Path, create: Create, model: FakeEmbedder) -> None:
    index = create(folder)
    with lock(index.directory), pytest.raises(UmeError, match="another process"):
        build_index(index, folder, model)


def test_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, create: Create, model: FakeEmbedder
) -> None:
    many(tmp_path / "many", 150)
    index = create(tmp_path / "many")

    def stop(*done_and_total: int) -> None:
        if done_and_total[0] >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(index, tmp_path / "many", model, progress=stop)
    assert len(index) == 128
    report = build_index(index, tmp_path / "many", model)
    assert (report.embedded, report.unchanged, len(index)) == (22, 128, 150)


def test_kinds_that_are_not_read_are_counted_with_the_fix(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    for name in ("1.PSD", "2.psd", "x.svg", "x.pdf", "odd.dat"):
        (folder / name).write_bytes(b"x")
    picture(8).save(folder / "browser.jfif", "JPEG")
    status, out, err = run("index", folder, "--to", tmp_path / "index", "--strict")
    assert status == 1 and "7 items" in out
    assert "left out 2 .psd files. Fix: convert them to JPEG" in err
    assert ".svg" in err and ".pdf" in err and ".dat: 1" in err
    for path in folder.glob("*.*"):
        if path.suffix not in (".jfif", ".dat"):
            path.unlink()
    assert run("index", folder, "--to", tmp_path / "index", "--strict")[0] == 0
