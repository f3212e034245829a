"""`ume index --watch`: a real process, a real folder, and a file that is written slowly."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.index import Index, build_index
from ume_r1.testing import Bucket

Run = Callable[..., tuple[int, str, str]]
_CODE = """
import sys
from ume_core.options import LoadOptions
from ume_core.testing import FakeEmbedder
from ume_r1.index import options
def load(model="default", *, engine="auto", **changes):
    print("LOADED", file=sys.stderr, flush=True)
    return FakeEmbedder(dimensions=32, options=LoadOptions(**changes))
options.load = load
from ume_r1.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def watching(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that watches a folder which holds its index; its first run is over."""
    command = [sys.executable, "-c", _CODE, "index", str(folder), "--to", str(folder / "index")]
    process = subprocess.Popen(
        [*command, "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests run in the background, they were told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        until(folder, lambda known: len(known) == 6)
        yield process
    finally:
        process.kill()
        process.communicate()


def until(folder: Path, reached: Callable[[set[str]], bool], seconds: float = 60) -> None:
    """Wait until the index holds what it should."""
    end, known = time.monotonic() + seconds, set[str]()
    while time.monotonic() < end:
        time.sleep(0.2)
        if (folder / "index" / "ume-index.json").exists():
            known = set(Index.open(folder / "index").known())
            if reached(known):
                return
    raise AssertionError(f"not reached; the index holds {known}")


def test_changes_are_indexed_when_a_file_is_whole_and_ctrl_c_ends_it(
    folder: Path, watching: subprocess.Popen[str]
) -> None:
    picture(50).save(folder / "b" / "new.png")
    (folder / "a" / "p0.png").unlink()
    slow = folder / "slow.txt"
    with slow.open("w") as file:  # never idle for as long as a file must rest
        for number in range(25):
            file.write(f"line {number}\n")
            file.flush()
            assert "slow.txt" not in Index.open(folder / "index").known()
            time.sleep(0.2)
    until(folder, lambda known: {"slow.txt", "b/new.png"} <= known and "a/p0.png" not in known)
    index = Index.open(folder / "index")
    whole = index.known()["slow.txt"][1]
    assert whole == hashlib.sha256(slow.read_bytes()).hexdigest()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0 and "Traceback" not in err
    assert "ume: stopped; 7 items" in err and err.count("LOADED") == 1
    # One line a run that did something: the index's own files are no change.
    assert 1 <= len(out.splitlines()) <= 5


def test_a_file_that_changed_just_now_is_left_as_it_was_indexed(
    folder: Path, tmp_path: Path, run: Run
) -> None:
    run("index", folder, "--to", tmp_path / "index")
    model = FakeEmbedder(dimensions=32)
    (folder / "a" / "note.txt").write_text("half of it")
    index = Index.open(tmp_path / "index")
    before = index.known()["a/note.txt"]
    report = build_index(index, folder, model, settle=30)
    assert "a/note.txt" in report.unsettled and index.known()["a/note.txt"] == before
    assert build_index(index, folder, model).embedded == 1


def test_what_cannot_be_watched_is_refused(bucket: Bucket, tmp_path: Path, run: Run) -> None:
    bucket.put("photos/a.txt", b"a")
    status, _, err = run("index", f"{bucket.uri}/photos", "--to", tmp_path / "i", "--watch")
    assert status == 2 and "cannot be watched" in err and not (tmp_path / "i").exists()
    status, _, err = run("index", tmp_path, "--to", tmp_path / "i", "--watch", "--strict")
    assert status == 2 and "--strict" in err
