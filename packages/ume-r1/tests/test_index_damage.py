"""A damaged index is noticed, named and repaired; nothing of the table library reaches a user."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock

from ume_core import UmeError
from ume_core.testing import FakeEmbedder
from ume_r1.index import DamagedIndex, Index, batches, build_index, seal
from ume_r1.index.errors import library_errors
from ume_r1.index.rows import Row, checked, schema_of, to_arrow
from ume_r1.index.store import lock
from ume_r1.index.writer import Writer

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty texts."""
    root = tmp_path / "texts"
    root.mkdir()
    for number in range(20):
        (root / f"t{number}.txt").write_text(f"text {number}")
    return root


def data_file(directory: Path) -> Path:
    """The newest data file of the table."""
    return max((directory / "lance").rglob("data/*"), key=lambda p: p.stat().st_mtime_ns)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def flip_vector(directory: Path, model: FakeEmbedder, text: str) -> None:
    """Change one bit of a stored vector."""
    vectors = model.embed([text]).disc
    assert vectors is not None
    path = data_file(directory)
    flip(path, path.read_bytes().index(vectors[0].tobytes()) + 3, 6)


def check_whole(index: Index, model: FakeEmbedder, count: int = 20) -> None:
    """Every text is found by itself, with cosine 1."""
    assert len(index) == count
    for number in range(count):
        vectors = model.embed([f"text {number}"]).disc
        assert vectors is not None
        hit = index.search(vectors[0], "disc", 1)[0]
        assert (hit.name, round(hit.score, 5)) == (f"t{number}.txt", 1.0)


def test_a_row_knows_by_its_digest_that_any_cell_was_changed() -> None:
    vector = np.arange(4, dtype=np.float32)
    row = Row("p", "d", "text", "2026", "ok", "thinks", "sums up", vector, vector + 1)
    table = to_arrow([row, row], schema_of("both", 4))
    assert checked(table) == (table, [])
    for name in table.column_names:
        cells = table[name].to_pylist()
        cells[1] = [9.0, 0, 0, 0] if isinstance(cells[1], list) else cells[1] + "?"
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        changed = table.set_column(place, field, pa.array(cells, field.type))
        good, lost = checked(changed)
        assert good.num_rows == 1 and lost == ["p?" if name == "path" else "p"]
    moved = table.set_column(0, "path", pa.array(["pd", "p"]))
    moved = moved.set_column(1, "digest", pa.array(["", "d"]))
    assert (
        checked(moved.cast(table.schema))[0].num_rows == 1
    )  # cells have their lengths before them


def test_a_flipped_bit_of_a_vector_is_an_error_at_search_and_repaired_by_index(
    folder: Path, run: Run, tmp_path: Path, model: FakeEmbedder, loads: list[Any]
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    flip_vector(index, model, "text 7")
    status, out, err = run("search", index, "text 3")
    assert status == 2 and not out
    assert f"{index} is damaged: lance/items-1.lance/data/" in err and "--verify" in err
    assert len(loads) == 1  # found out before the model was loaded
    status, out, err = run("index", folder, "--to", index)
    assert status == 0 and "20 items" in out and "1 embedded, 19 unchanged" in out
    assert "damaged lance/items-1.lance/data/" in err and "repaired t7.txt" in err
    check_whole(Index.open(index), model)
    status, out, _ = run("index", folder, "--to", index, "--verify", "--strict")
    assert status == 0 and "0 embedded, 20 unchanged" in out


def test_in_a_large_index_a_hit_is_checked_and_verify_finds_the_rest(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    monkeypatch.setattr(seal, "CHEAP_BYTES", 2000)  # the data file counts as large
    flip_vector(index.directory, model, "text 7")
    opened = Index.open(index.directory)
    other = model.embed(["text 3"]).disc
    assert other is not None and opened.search(other[0], "disc", 1)[0].name == "t3.txt"
    with pytest.raises(DamagedIndex, match=r"the row of t7\.txt.*--verify"):
        opened.search(other[0], "disc", 20)
    assert build_index(index, folder, model).repaired == []
    assert build_index(index, folder, model, verify=True).repaired == ["t7.txt"]
    check_whole(Index.open(index.directory), model)


DAMAGES = {
    "data": ("cut", "zero", "gone", "folder"),
    "_versions": ("empty", "zero", "random", "gone"),
    **dict.fromkeys(
        ("ume-index.json", "seen.parquet", ".lock"),
        ("cut", "empty", "zero", "random", "gone", "folder"),
    ),
}


@pytest.mark.parametrize(
    ("kind", "damage"), [(kind, damage) for kind, damages in DAMAGES.items() for damage in damages]
)
def test_every_file_may_be_damaged(
    folder: Path, run: Run, tmp_path: Path, model: FakeEmbedder, kind: str, damage: str
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    found = sorted((index / "lance").rglob(f"{kind}/*.*")) or [index / kind]
    path, data = found[0], found[0].read_bytes()
    changed = {
        "cut": data[:-7],
        "empty": b"",
        "zero": bytes(len(data)),
        "random": np.random.default_rng(0).bytes(len(data)),
    }
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(changed[damage])
    status, out, err = run("search", index, "text 3")
    right = status == 0 and out.splitlines()[0].endswith("t3.txt")
    assert right or (status == 2 and "Fix: " in err and "Traceback" not in err)
    status, out, err = run("index", folder, "--to", index)
    if status:
        assert kind in ("ume-index.json", ".lock") and "Fix: " in err
        again = ("--rebuild",)
        if kind == ".lock":
            shutil.rmtree(path)
            again = ()
        status, out, err = run("index", folder, "--to", index, *again)
    assert status == 0 and "20 items" in out
    check_whole(Index.open(index), model)


def test_what_cannot_be_read_is_not_taken_for_damaged(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    opened = Path.open

    def fail(self: Path, *rest: Any, **named: Any) -> Any:
        if self.parent.name == "data":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(self, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        for action in (
            lambda: Index.open(index.directory),
            lambda: build_index(index, folder, model),
        ):
            with pytest.raises(UmeError, match=r"Input/output error.*check the disk") as caught:
                action()
            assert not isinstance(caught.value, DamagedIndex)
    assert build_index(index, folder, model).unchanged == 20


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", ["ume-index.json", "_versions", "lance", "data"])
def test_an_index_that_cannot_be_looked_at_is_not_taken_for_none(
    folder: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    before = {p: p.read_bytes() for p in index.rglob("*") if p.is_file()}

    def refusing(call: Any) -> Any:
        def fail(path: Any, *rest: Any, **named: Any) -> Any:
            if Path(os.fsdecode(path)).name == name:
                raise OSError(number, os.strerror(number))
            return call(path, *rest, **named)

        return fail

    with monkeypatch.context() as patch:
        for call in ("stat", "scandir", "listdir"):
            patch.setattr(os, call, refusing(getattr(os, call)))
        status, _, err = run("index", folder, "--to", index)
    assert status == 2 and os.strerror(number) in err and "Fix: " in err
    assert {p: p.read_bytes() for p in index.rglob("*") if p.is_file()} == before


def test_a_damaged_row_whose_file_is_not_there_is_named(
    folder: Path, run: Run, tmp_path: Path, model: FakeEmbedder
) -> None:
    index = tmp_path / "index"
    (folder / "sub").mkdir()
    (folder / "t7.txt").rename(folder / "sub" / "t7.txt")
    run("index", folder, "--to", index)
    flip_vector(index, model, "text 7")
    (folder / "sub" / "t7.txt").unlink()
    status, out, err = run("index", folder, "--to", index, "--strict")
    assert status == 1 and "19 items" in out and "skipped sub/t7.txt: its row was damaged" in err


def test_only_the_rows_of_a_damaged_data_file_are_embedded_again(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batches._CHUNK, "disc", 5)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(batches, "_COMMIT_SECONDS", 0)
    index = create(folder)
    build_index(index, folder, model)
    path = data_file(index.directory)
    path.write_bytes(path.read_bytes()[:100])
    report = build_index(index, folder, model)
    assert (report.embedded, report.unchanged) == (5, 15)
    check_whole(index, model)


@pytest.mark.parametrize("damage", [b"", bytes(600), None])
def test_one_damaged_manifest_of_a_rewritten_table_costs_nothing(
    folder: Path, create: Create, model: FakeEmbedder, damage: bytes | None
) -> None:
    (folder / "other.txt").write_text("other")
    index = create(folder)
    build_index(index, folder, model)
    (folder / "other.txt").unlink()
    build_index(index, folder, model)  # rewrites, since a row is deleted
    newest = min((index.directory / "lance").rglob("_versions/*.manifest"))
    newest.unlink()
    if damage is not None:
        newest.write_bytes(damage)
    report = build_index(index, folder, model)
    assert report.damaged and (report.embedded, report.unchanged) == (0, 20)
    check_whole(index, model)


def test_a_list_of_deleted_rows_that_was_cut_loses_no_other_rows(
    folder: Path, create: Create, model: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(folder)
    build_index(index, folder, model)
    (folder / "t0.txt").unlink()
    (folder / "t1.txt").write_text("edited")

    def die(*_: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Writer, "finish", die)
        build_index(index, folder, model)
    for path in (index.directory / "lance").rglob("_deletions/*"):
        path.write_bytes(path.read_bytes()[:40])  # Lance does not notice that a write fails
    (folder / "t1.txt").write_text("text 1")
    report = build_index(index, folder, model)
    assert report.unchanged + report.embedded == 19 and report.embedded <= 1
    (folder / "t0.txt").write_text("text 0")
    build_index(index, folder, model)
    check_whole(index, model)


def test_rows_of_an_interrupted_run_are_checked_though_no_seal_covers_them(
    folder: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(folder)

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(index, folder, model, progress=stop)
    flip_vector(index.directory, model, "text 7")
    report = build_index(index, folder, model)
    assert (report.embedded, report.unchanged) == (1, 19)
    check_whole(Index.open(index.directory), model)


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", ".ume-index.json.tmp"), ("lance",)])
def test_a_creation_that_was_killed_is_no_obstacle(
    folder: Path, run: Run, tmp_path: Path, model: FakeEmbedder, left: tuple[str, ...]
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    for name in left:
        if name == "lance":
            (index / name / "items-1.lance" / "_transactions").mkdir(parents=True)
        else:
            (index / name).write_text("{")
    assert run("index", folder, "--to", index)[0] == 0
    check_whole(Index.open(index), model)


def test_an_index_can_be_searched_from_the_moment_it_is_described(
    folder: Path, run: Run, create: Create, tmp_path: Path
) -> None:
    create(folder)  # and killed before the first row
    said = "ume: nothing in the index fits\n"
    assert run("search", tmp_path / "index", "text 3") == (0, "", said)


def test_other_files_are_never_written_over(folder: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "documents"
    place.mkdir()
    (place / "letter.txt").write_text("dear")
    for extra in ((), ("--rebuild",)):
        status, _, err = run("index", folder, "--to", place, *extra)
        assert status == 2 and "letter.txt" in err and "choose another --to" in err
    status, _, err = run("index", folder, "--to", place / "letter.txt")
    assert status == 2 and "is a file" in err
    assert [p.name for p in place.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "stored",
    [
        '{"version": 2, "folder": "my photos", "model": "ume-r1-2b", "mode": "both"}',
        '{"format": 99, "folder": "my photos", "model": "ume-r1-2b", "mode": "both"}',
    ],
)
def test_an_index_of_another_format_is_refused_and_rebuilt_on_request(
    folder: Path, run: Run, tmp_path: Path, model: FakeEmbedder, stored: str
) -> None:
    index = tmp_path / "index"
    (index / "lance" / "items.lance" / "data").mkdir(parents=True)
    (index / "lance" / "items.lance" / "data" / "x.lance").write_bytes(b"x")
    (index / "ume-index.json").write_text(stored)
    for command in (("search", index, "x"), ("index", folder, "--to", index)):
        status, _, err = run(*command)
        assert status == 2 and "format" in err
        assert f"index 'my photos' --to {index} --rebuild --model=ume-r1-2b --mode=both" in err
    assert run("index", folder, "--to", index, "--rebuild")[0] == 0
    check_whole(Index.open(index), model)
    assert not (index / "lance" / "items.lance").exists()


def test_rows_without_their_description_are_not_embedded_anew_by_another_model(
    folder: Path, run: Run, tmp_path: Path, loads: list[dict[str, Any]]
) -> None:
    index = tmp_path / "index"
    assert run("index", folder, "--to", index, "--model", "ume-r1-2b", "--engine", "mine")[0] == 0
    (index / "ume-index.json").unlink()
    status, _, err = run("index", folder, "--to", index)
    assert status == 2 and "ume-index.json is gone" in err and "--rebuild" in err
    assert len(loads) == 1  # no other model was loaded for it
    assert run("index", folder, "--to", index, "--rebuild", "--model", "ume-r1-2b")[0] == 0


def test_rebuild_keeps_the_model_and_its_options(
    folder: Path, run: Run, tmp_path: Path, loads: list[dict[str, Any]]
) -> None:
    index = tmp_path / "index"
    first = ("--model", "ume-r1-2b", "--mode", "both", "--engine", "mine", "--text-only", "plain")
    run("index", folder, "--to", index, *first)
    run("index", folder, "--to", index, "--rebuild")
    assert loads[1]["model"] == "ume-r1-2b" and loads[1]["engine"] == "mine"
    assert loads[1]["text_only"] == "plain"
    assert Index.open(index).description.mode == "both"
    run("index", folder, "--to", index, "--rebuild", "--model", "ume-nano")  # another: all anew
    assert loads[2]["engine"] == "auto" and loads[2]["text_only"] is None


def test_rebuild_starts_anew_in_another_mode(folder: Path, run: Run, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    status, _, err = run("index", folder, "--to", index, "--mode", "gen")
    assert status == 2 and "--mode disc" in err
    status, out, _ = run("index", folder, "--to", index, "--mode", "gen", "--rebuild")
    assert status == 0 and "20 embedded" in out
    opened = Index.open(index)
    assert opened.description.mode == "gen" and len(list((index / "lance").iterdir())) == 1


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            RuntimeError("lance error: x: No space left on device (os error 28), /a/b.rs:1:2"),
            "free",
        ),
        (RuntimeError("Too many open files (os error 24)"), "ulimit -n"),
        (OSError(errno.EDQUOT, "quota"), "free some of your quota"),
        (OSError(errno.EROFS, "read-only"), "remount it writable"),
        (ValueError("Not found: x (os error 2)"), "is damaged"),
        (type("RustPanic", (BaseException,), {})("rust future panicked"), "is damaged"),
    ],
)
def test_what_the_table_library_raises_becomes_our_error(
    raised: BaseException, message: str
) -> None:
    with (
        pytest.raises(UmeError, match=message) as caught,
        library_errors(Path("/index"), "lance/items-1.lance"),
    ):
        raise raised
    assert ".rs" not in str(caught.value) and caught.value.fix


def test_interruptions_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt), library_errors(Path("/index"), "x"):
        raise KeyboardInterrupt


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", fail)
    with pytest.raises(UmeError, match="no file locks"), lock(tmp_path):
        pass


def test_the_description_is_json_with_all_that_loading_needs(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    run("index", folder, "--to", tmp_path / "index", "--text-only", "plain", "--device", "cpu")
    said = json.loads((tmp_path / "index" / "ume-index.json").read_text())
    assert said["format"] == 4 and said["model"] == "ume-nano" and said["engine"] == "auto"
    assert said["options"] == {"text_only": "plain", "dtype": "float32"}
