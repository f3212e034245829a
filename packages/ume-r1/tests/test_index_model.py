"""An index knows how its model is loaded, and refuses another before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ume_core import Limits, LoadOptions, Policy, UmeError
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.index import Description, Index, build_index

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]


def test_one_call_loads_the_model_an_index_was_made_with(
    folder: Path, tmp_path: Path, loads: list[dict[str, Any]]
) -> None:
    given = LoadOptions(
        device="cuda:7",
        text_only="plain",
        jpeg_draft=True,
        thinking="short",
        thinking_tokens=8,
        policy=Policy.closed(),
        limits=Limits(video_frames=16),
    )
    model = FakeEmbedder(dimensions=32, options=given)
    about = Description.of(model, folder, "disc", name="some/model", engine="mine", options=given)
    build_index(Index.create(tmp_path / "index", about), folder, model)
    opened = Index.open(tmp_path / "index")
    again = opened.load_model()
    assert again.signature("disc") == model.signature("disc")
    # What belongs to the machine or the run is not kept.
    assert loads == [
        {
            "model": "some/model",
            "engine": "mine",
            "text_only": "plain",
            "jpeg_draft": True,
            "thinking": "short",
            "thinking_tokens": 8,
            "limits": Limits(video_frames=16),
            "dtype": "float32",
        }
    ]
    opened.load_model("some/model", engine="other", device="cpu", policy=Policy())
    assert loads[1]["engine"] == "other" and loads[1]["device"] == "cpu"


def test_the_engine_is_remembered_and_used_at_search_and_update(
    folder: Path, run: Run, loads: list[dict[str, Any]], tmp_path: Path
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index, "--engine", "mine", "--model", "some/model")
    assert run("search", index, "the note of a")[1].splitlines()[0].endswith("a/note.txt")
    picture(8).save(folder / "new.png")
    assert "1 embedded" in run("index", folder, "--to", index)[1]
    assert [(c["model"], c["engine"]) for c in loads] == [("some/model", "mine")] * 3
    # The files are read by the index; what they name is not opened.
    assert [c.get("policy") for c in loads] == [Policy.closed(), None, Policy.closed()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "ume-r1-2b"), "model: ume-nano != ume-r1-2b"),
        (("--model", "somebody/else"), "model: ume-nano != somebody/else"),
        (("--text-only", "plain"), "text_only: blank != plain"),
        (("--prompt", "readme"), "prompt: one-line != readme"),
        (("--dtype", "bfloat16"), "dtype: float32 != bfloat16"),
        (("--mode", "gen"), "gen"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_loaded(
    folder: Path,
    run: Run,
    loads: list[dict[str, Any]],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    for command in (("search", index, "x"), ("index", folder, "--to", index)):
        status, _, err = run(*command, *arguments)
        assert status == 2 and message in err and "Fix: " in err
    assert len(loads) == 1


def test_other_names_of_the_same_model_are_accepted(folder: Path, run: Run, tmp_path: Path) -> None:
    weights, index = tmp_path / "weights", tmp_path / "index"
    weights.mkdir()
    run("index", folder, "--to", index, "--model", "ume-r1-2b", "--thinking", "full")
    # The hub id behind the alias; a directory, whose weights decide; thinking, which disc ignores.
    for name in ("zhibinlan/UME-R1-2B", str(weights)):
        assert run("search", index, "x", "--model", name, "--thinking", "none")[0] == 0


def test_a_loaded_model_of_other_weights_is_refused(
    folder: Path, create: Create, model: FakeEmbedder
) -> None:
    build_index(create(folder), folder, model)
    other = FakeEmbedder(dimensions=64)
    with pytest.raises(UmeError, match="dimensions: 32 != 64"):
        Index.create(create(folder).directory, Description.of(other, folder, "disc", name="fake"))
    (folder / "new.txt").write_text("new")
    with pytest.raises(UmeError, match="dimensions: 32 != 64"):
        build_index(create(folder), folder, lambda: other)


def test_a_renamed_folder_keeps_its_rows(
    folder: Path, run: Run, loads: list[Any], tmp_path: Path
) -> None:
    index, renamed = tmp_path / "index", tmp_path / "renamed"
    run("index", folder, "--to", index)
    folder.rename(renamed)
    status, out, err = run("search", index, "the note of a")
    assert status == 1 and "[gone]" in out and f"ume index NEWFOLDER --to {index}" in err
    status, out, err = run("index", renamed, "--to", index)
    assert status == 0 and "0 embedded, 6 unchanged" in out and f"from now on {renamed}" in err
    status, out, _ = run("search", index, "the note of a")
    assert status == 0 and out.splitlines()[0].endswith(str(renamed / "a" / "note.txt"))
    assert len(loads) == 3  # one for the first run, two for the searches


def test_a_folder_moved_together_with_its_index_is_found(run: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "disk", tmp_path / "other disk"
    (old / "photos").mkdir(parents=True)
    picture(1).save(old / "photos" / "a.png")
    (old / "photos" / "x.txt").write_text("a bus")
    run("index", old / "photos", "--to", old / "index")
    shutil.copytree(old, new)
    shutil.rmtree(old)
    status, out, _ = run("search", new / "index", "a bus")
    assert status == 0 and out.splitlines()[0].endswith(str(new / "photos" / "x.txt"))
    status, out, _ = run("index", new / "photos", "--to", new / "index")
    assert status == 0 and "0 embedded, 2 unchanged" in out


@pytest.mark.parametrize("old_is_there", [True, False])
def test_another_folder_is_not_taken_for_a_moved_one(
    folder: Path, run: Run, tmp_path: Path, old_is_there: bool
) -> None:
    index, other = tmp_path / "index", tmp_path / "other"
    run("index", folder, "--to", index)
    shutil.copytree(folder, other)
    for name in ("a/p0.png", "a/p1.png", "b/p0.png", "b/p1.png"):
        picture(500 + len(name)).save(other / name)
    if not old_is_there:
        shutil.rmtree(folder)
    status, _, err = run("index", other, "--to", index)
    assert status == 2 and "2 of 6 files compared are the same" in err
    assert "choose another --to" in err and "--rebuild" in err
    assert run("index", other, "--to", index, "--rebuild")[0] == 0


def test_deleted_files_are_marked_among_the_results(folder: Path, run: Run, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", folder, "--to", index)
    (folder / "a" / "note.txt").unlink()
    status, out, err = run("search", index, "the note of a")
    lines = out.splitlines()
    assert status == 1 and lines[0].endswith("note.txt  [gone]")
    assert sum("[gone]" in line for line in lines) == 1 and f"ume index {folder} --to" in err


def test_a_moved_folder_whose_index_is_damaged_is_repaired_there(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    index, renamed = tmp_path / "index", tmp_path / "renamed"
    run("index", folder, "--to", index)
    folder.rename(renamed)
    for path in (index / "lance").rglob("data/*"):
        path.write_bytes(b"")
    status, out, err = run("index", renamed, "--to", index)
    assert status == 0 and "6 embedded" in out and "repaired a/p0.png" in err
