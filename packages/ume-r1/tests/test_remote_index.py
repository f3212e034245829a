"""An index on an object store, and indexes that are moved to one and back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ume_core import UmeError
from ume_core.testing import FakeEmbedder
from ume_r1.index import Index, build_index, remote
from ume_r1.index.folders import directory_at
from ume_r1.index.store import lock
from ume_r1.testing import SECRET, Bucket

Run = Callable[..., tuple[int, str, str]]
Create = Callable[..., Index]


def test_an_index_on_a_store_does_what_one_on_a_disk_does(
    folder: Path, bucket: Bucket, run: Run, tmp_path: Path
) -> None:
    place = f"{bucket.uri}/indexes/mine"
    status, out, err = run("index", folder, "--to", place)
    assert status == 0 and "6 embedded" in out, err
    run("index", folder, "--to", tmp_path / "local")
    found = run("search", place, "the note of a")
    assert found[0] == 0 and found == run("search", tmp_path / "local", "the note of a")
    (folder / "a" / "p0.png").rename(folder / "b" / "renamed.png")
    (folder / "b" / "note.txt").unlink()
    (folder / "a" / "note.txt").write_text("other words")
    status, out, err = run("index", folder, "--to", place)
    assert "1 embedded, 3 unchanged, 1 moved, 1 removed" in out and status == 0, err
    assert run("index", folder, "--to", place)[1].startswith("5 items")
    opened = Index.open(place)
    assert set(opened.known()) == {
        "a/note.txt", "a/p1.png", "b/p0.png", "b/p1.png", "b/renamed.png"
    }  # fmt: skip
    assert opened.like("b/p0.png", "disc", 1) and opened.folder == folder
    assert not [key for key in bucket.keys("indexes") if ".lock" in key]


def test_a_folder_and_its_index_may_both_be_on_a_store(
    folder: Path, bucket: Bucket, run: Run
) -> None:
    bucket.upload(folder, "photos")
    place = f"{bucket.uri}/photos/index"  # passed over when the folder is listed
    for embedded in ("6 embedded", "0 embedded, 6 unchanged"):
        status, out, err = run("index", f"{bucket.uri}/photos", "--to", place)
        assert status == 0 and embedded in out and "left out" not in err
    _, out, _ = run("search", place, "the note of a", "--top", 1)
    assert f"{bucket.uri}/photos/a/note.txt" in out


def test_an_index_can_be_moved_to_a_store_and_back(
    folder: Path, bucket: Bucket, run: Run, tmp_path: Path
) -> None:
    run("index", folder, "--to", tmp_path / "index")
    wanted = run("search", tmp_path / "index", "the note of a")
    bucket.upload(tmp_path / "index", "moved")
    assert run("search", f"{bucket.uri}/moved", "the note of a") == wanted
    assert "6 unchanged" in run("index", folder, "--to", f"{bucket.uri}/moved")[1]
    (folder / "a" / "new.txt").write_text("new")
    assert "1 embedded" in run("index", folder, "--to", f"{bucket.uri}/moved")[1]
    bucket.download("moved", tmp_path / "back")
    assert len(Index.open(tmp_path / "back")) == 7
    assert run("search", tmp_path / "back", "the note of a")[1].startswith(wanted[1][:20])
    assert "7 unchanged" in run("index", folder, "--to", tmp_path / "back")[1]


def test_many_commits_on_a_store_are_merged_and_indexed(
    folder: Path, bucket: Bucket, model: FakeEmbedder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ume_r1.index import batches

    monkeypatch.setattr(batches, "_COMMIT_SECONDS", 0)
    monkeypatch.setitem(batches._CHUNK, "disc", 16)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr("ume_r1.index.writer.ANN_ROWS", 300)
    monkeypatch.setattr("ume_r1.index.writer._UNINDEXED", 100)
    for number in range(400):
        (folder / f"t{number}.txt").write_text(f"text {number}")
    place = f"{bucket.uri}/index"
    status, out, err = run("index", folder, "--to", place)
    assert status == 0 and "406 embedded" in out and "recall@10 is" in err
    index = Index.open(place)
    vector = model.embed(["text 7"]).vectors("disc")[0]
    assert index.search(vector, "disc", 1)[0].name == "t7.txt"
    data = [key for key in bucket.keys("index/lance") if "/data/" in key]
    assert len(data) <= 30


def test_one_process_writes_and_a_killed_one_is_given_up(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = directory_at(f"{bucket.uri}/index")
    with (
        lock(place),
        pytest.raises(UmeError, match=r"another process.*given up in \d+ s"),
        lock(place),
    ):
        pass
    code = (
        "import os; from ume_r1.index.folders import directory_at; "
        "from ume_r1.index.store import lock\n"
        f"with lock(directory_at('{bucket.uri}/index')): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(UmeError, match="another process"), lock(place):
        pass
    monkeypatch.setattr(remote, "_LEASE_SECONDS", 1.0)
    threading.Event().wait(2.1)  # a store's times are whole seconds
    with lock(place):
        monkeypatch.setattr(remote, "_LEASE_SECONDS", 4.0)  # a busy machine renews late
        threading.Event().wait(5.1)  # renewed meanwhile
        with pytest.raises(UmeError, match="another process"), lock(place):
            pass
    assert bucket.keys() == []


def test_errors_of_a_store_have_their_fix(
    folder: Path, bucket: Bucket, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in (("index", folder, "--to", "s3://no-such-bucket-here/i"),
                    ("search", "s3://no-such-bucket-here/i", "x")):  # fmt: skip
        status, _, err = run(*command)
        assert status == 2 and "no such bucket" in err and "AWS_ENDPOINT_URL" in err
    status, _, err = run("search", f"{bucket.uri}/nothing", "x")
    assert status == 2 and f"ume index FOLDER --to {bucket.uri}/nothing" in err
    bucket.put("documents/letter.txt", b"dear")
    status, _, err = run("index", folder, "--to", f"{bucket.uri}/documents")
    assert status == 2 and "letter.txt" in err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = run("search", f"{bucket.uri}/nothing", "x")
    assert status == 2 and "no usable credentials" in err and SECRET not in err


def test_an_interrupted_run_on_a_store_goes_on(
    folder: Path, bucket: Bucket, create: Create, model: FakeEmbedder, run: Run
) -> None:
    del create
    place = f"{bucket.uri}/index"
    run("index", folder, "--to", place)
    for number in range(100):
        (folder / f"t{number}.txt").write_text(f"text {number}")

    def stop(done: int, _: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    index = Index.open(place)
    with pytest.raises(KeyboardInterrupt):
        build_index(index, folder, model, progress=stop)
    report = build_index(Index.open(place), folder, model)
    assert report.unchanged > 60 and len(Index.open(place)) == 106
