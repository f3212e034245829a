"""A folder on an object store: read by URI, from a real S3 server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ume_core import UmeError
from ume_core.testing import FakeEmbedder
from ume_r1.index import Index, build_index
from ume_r1.index.reading import Content, Unreadable
from ume_r1.index.remote import RemoteFolder
from ume_r1.testing import SECRET, Bucket, fetched_names

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(bucket: Bucket, folder: Path) -> str:
    """The folder of the other tests, on the store; with what a store has beside files."""
    bucket.upload(folder, "photos")
    bucket.put("photos/a/", b"")  # stands for the directory
    bucket.put("photos/.hidden/x.png", b"x")
    bucket.put("photos/empty.txt", b"")
    bucket.put("photos/letter.docx", b"x")
    bucket.put("photos-of-others/x.txt", b"not below photos/")
    return f"{bucket.uri}/photos"


def test_a_remote_folder_gives_the_rows_and_vectors_of_a_local_one(
    photos: str, folder: Path, tmp_path: Path, run: Run, model: FakeEmbedder
) -> None:
    assert run("index", folder, "--to", tmp_path / "local")[0] == 0
    status, out, err = run("index", photos + "/", "--to", tmp_path / "remote")
    assert status == 0 and "6 items" in out and "6 embedded" in out
    assert "skipped empty.txt: it is empty" in err and ".docx" in err
    local, remote = Index.open(tmp_path / "local"), Index.open(tmp_path / "remote")
    assert dict(local.known()) == dict(remote.known()) and remote.folder == photos
    vector = model.embed(["the note of a"]).vectors("disc")[0]
    assert remote.scores(vector, "disc") == local.scores(vector, "disc")


def test_the_next_run_fetches_what_changed_and_copies_what_moved(
    photos: str, bucket: Bucket, create: Create, model: FakeEmbedder, monkeypatch: Any
) -> None:
    index = create(photos)  # pyright: ignore[reportArgumentType]
    build_index(index, photos, model)
    fetched = fetched_names(monkeypatch)
    build_index(index, photos, model)
    assert fetched == ["empty.txt"] or fetched == []
    fetched.clear()
    data = bucket.get("photos/a/note.txt")
    bucket.put("photos/b/moved.txt", data)
    bucket.delete("photos/a/note.txt")
    bucket.put("photos/b/note.txt", b"other words now")
    report = build_index(index, photos, model)
    figures = (report.embedded, report.moved, report.removed, report.unchanged)
    assert figures == (1, 1, 0, 4) and set(fetched) == {"b/moved.txt", "b/note.txt"}
    hits = index.search(model.embed(["the note of a"]).vectors("disc")[0], "disc", 1)
    assert hits[0].name == "b/moved.txt" and hits[0].path == f"{photos}/b/moved.txt"


def test_nothing_in_an_index_causes_a_fetch(
    photos: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", photos, "--to", tmp_path / "index")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    page = tmp_path / "page.html"
    status, out, err = run("search", tmp_path / "index", "the note of a", "--html", page)
    assert status == 0 and f"{photos}/a/note.txt" in out and "gone" not in out + err
    assert "on an object store" in page.read_text()
    status, out, _ = run("search", tmp_path / "index", "x", "--under", f"{photos}/b")
    assert status == 0 and "/a/" not in out and "/b/" in out


def test_a_file_larger_than_the_limit_is_refused_before_it_is_fetched(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("photos/large.txt", b"x" * 5000)
    folder = RemoteFolder(f"{bucket.uri}/photos")
    folder.list()
    monkeypatch.setattr("ume_r1.index.reading.Limits", lambda: _Small())
    bucket.delete("photos/large.txt")  # a fetch would say that it is not there
    found = dict(folder.contents(["large.txt"]))["large.txt"]
    assert isinstance(found, Unreadable) and "exceed limits.file_bytes" in found.reason


def test_an_object_that_grew_since_it_was_listed_is_not_fetched_whole(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("photos/a.txt", b"x" * 10)
    folder = RemoteFolder(f"{bucket.uri}/photos")
    folder.list()
    monkeypatch.setattr("ume_r1.index.reading.Limits", lambda: _Small())
    monkeypatch.setattr("ume_r1.index.remote.Limits", lambda: _Small())
    bucket.put("photos/a.txt", b"x" * 5_000_000)
    found = dict(folder.contents(["a.txt"]))["a.txt"]
    assert isinstance(found, Unreadable) and "its 1,001 bytes exceed" in found.reason


class _Small:
    file_bytes = 1000


def test_files_come_in_order_and_a_failure_is_the_files_own(bucket: Bucket) -> None:
    names = [f"{number:02}.txt" for number in range(30)]
    for name in names:
        bucket.put(f"photos/{name}", name.encode())
    folder = RemoteFolder(f"{bucket.uri}/photos")
    assert list(folder.list().files) == names
    bucket.delete("photos/11.txt")
    found = dict(folder.contents(names))
    assert list(found) == names
    assert {n for n, c in found.items() if isinstance(c, Unreadable)} == {"11.txt"}
    assert all(c.data == n.encode() for n, c in found.items() if isinstance(c, Content))


# Errors say what to do, and never a secret.


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket-here/x", "no such bucket.*AWS_ENDPOINT_URL"),
        ("{bucket}/nowhere", "it is not there"),
        ("s3://", "names no bucket"),
        ("http://example.com/photos/", "http:// is no place"),
        ("simplecache::s3://bucket/x", "is no place"),
        ("s3://AKIA:sEcReT/x@bucket/photos", "perhaps credentials.*AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?X-Amz-Signature=sEcReT", "perhaps credentials"),
    ],
)
def test_a_uri_that_cannot_be_read_is_refused_with_its_fix(
    bucket: Bucket, tmp_path: Path, run: Run, uri: str, message: str
) -> None:
    status, out, err = run("index", uri.format(bucket=bucket.uri), "--to", tmp_path / "index")
    assert status == 2 and not out and "Fix: " in err
    assert "sEcReT" not in err and not (tmp_path / "index").exists()
    with pytest.raises(UmeError, match=message):
        RemoteFolder(uri.format(bucket=bucket.uri)).list()


def test_missing_credentials_are_said_and_none_is_printed(
    photos: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = run("index", photos, "--to", tmp_path / "index")
    assert status == 2 and "no usable credentials" in err and "AWS_ACCESS_KEY_ID" in err
    assert SECRET not in err


def test_a_driver_that_is_not_installed_is_named_with_the_line_that_installs_it(
    tmp_path: Path, run: Run
) -> None:
    status, _, err = run("index", "gs://bucket/photos", "--to", tmp_path / "index")
    assert status == 2 and "gs:// needs gcsfs, which is not installed" in err
    assert "pip install gcsfs universal-pathlib" in err
    code = (
        "import sys; sys.modules['s3fs'] = None; from ume_r1.cli import main; "
        f"sys.exit(main(['index', 's3://bucket/photos', '--to', {str(tmp_path / 'index')!r}]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "s3:// needs s3fs" in ended.stderr
    assert "pip install 's3fs>=" in ended.stderr and not (tmp_path / "index").exists()
