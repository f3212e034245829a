"""Folders indexed on a cluster: every file exactly once, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

import ume_core
import ume_r1
from ume_core.errors import InvalidOption
from ume_core.fetch import Access
from ume_core.testing.contract import picture
from ume_r1.index import Description, Index, build_index
from ume_r1.index.rows import matrix
from ume_r1.index.table import Table
from ume_r1.index.writer import writing
from ume_ray import reading
from ume_ray.blocks import FATAL

Frail = Any  # conftest's

Run = Callable[..., tuple[int, str, str]]
GALLERY = Path(__file__).resolve().parents[3] / "tools" / "gallery"


def stored(directory: Path, mode: str = "disc") -> dict[str, np.ndarray]:
    """path -> vector of every row; a path that is stored twice is an error."""
    about = Index.open(directory).description
    found: dict[str, np.ndarray] = {}
    for rows, lost in Table(directory, about.generation, about.schema).pages():
        assert not lost
        for path, vector in zip(rows["path"].to_pylist(), matrix(rows[mode]), strict=True):
            assert path not in found
            found[path] = vector
    return found


def texts(folder: Path, count: int) -> dict[str, str]:
    """A folder of texts; returns them by file name."""
    folder.mkdir()
    found = {f"{number:04}.txt": f"thing number {number}" for number in range(count)}
    for name, text in found.items():
        (folder / name).write_text(text)
    return found


def check(directory: Path, wanted: dict[str, str], frail: Frail) -> None:
    """Every text is stored once, with the vector that one process computes."""
    found = stored(directory)
    assert sorted(found) == sorted(wanted)
    expected = frail.vectors(list(wanted.values()))
    np.testing.assert_allclose(np.stack([found[name] for name in wanted]), expected, atol=1e-5)


def pdf(path: Path, *seeds: int) -> None:
    """A PDF with a picture a page."""
    images: list[PILImage.Image] = [picture(seed) for seed in seeds]
    images[0].save(path, save_all=True, append_images=images[1:])


def wait_for(condition: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def items_in(directory: Path) -> int:
    """Rows that are committed, seen from outside; 0 while there is no index."""
    try:
        return len(Index.open(directory))
    except InvalidOption:
        return 0


def test_a_run_equals_that_of_one_process(cluster: str, tmp_path: Path, run: Run) -> None:
    """disc and gen, with what gen wrote."""
    assert cluster
    folder = tmp_path / "files"
    texts(folder, 2)
    for name in ("dog", "bus"):
        shutil.copy(GALLERY / f"{name}.png", folder)
    shutil.copy(folder / "dog.png", folder / "dog again.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    pdf(folder / "doc.pdf", 1, 2)
    model = ume_r1.load("ume-nano")
    alone = Index.create(tmp_path / "one", Description.of(model, folder, "both", name="ume-nano"))
    report = build_index(alone, folder, model, max_new_tokens=8)
    status, out, err = run(
        "index", folder, "--to", tmp_path / "many", "--ray", "--mode", "both", "--max-new-tokens",
        "8", "--strict",
    )  # fmt: skip
    assert "7 items" in out and "6 embedded" in out and "1 moved" in out and "1 skipped" in out
    assert status == 1 and f"skipped broken.png: {report.skipped['broken.png']}" in err
    assert "8 items in" in err and "a second, by 1 worker on 1 node" in err
    assert Index.open(tmp_path / "many").description.signature == alone.description.signature
    one, many = (
        Index.open(tmp_path / name).best(dict.fromkeys(("bus.png", "dog again.png"), 1.0), 2)
        for name in ("one", "many")
    )
    assert [(hit.thinking, hit.summary) for hit in one] == [(h.thinking, h.summary) for h in many]
    for mode in ("disc", "gen"):
        first, second = stored(tmp_path / "one", mode), stored(tmp_path / "many", mode)
        assert first.keys() == second.keys()
        for name, vector in first.items():
            np.testing.assert_allclose(second[name], vector, atol=1e-5)


def test_a_killed_worker_costs_nothing_but_time(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    wanted = texts(tmp_path / "files", 400)
    for number in range(20):
        wanted[f"copy {number}.txt"] = wanted[f"{number:04}.txt"]
        shutil.copy(
            tmp_path / "files" / f"{number:04}.txt", tmp_path / "files" / f"copy {number}.txt"
        )
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: len(frail.lines("embedded")) > 60)
        victim = int(frail.lines("pids")[-1])
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    status, out, err = run(
        "index", tmp_path / "files", "--to", tmp_path / "index", "--ray", "--model", frail.path,
        "-o", "delay=0.005", "--worker-cpus", "1",
    )  # fmt: skip
    thread.join()
    assert status == 0 and killed and "420 items" in out and "400 embedded" in out
    assert "1 was replaced after its process ended" in err
    check(tmp_path / "index", wanted, frail)


def test_a_killed_driver_is_followed_by_a_run_that_goes_on(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    wanted = texts(tmp_path / "files", 600)
    command = [
        "index", str(tmp_path / "files"), "--to", str(tmp_path / "index"), "--model",
        str(frail.path), "-o", "delay=0.01",
    ]  # fmt: skip
    driver = subprocess.Popen([sys.executable, "-m", "ume_r1", *command, "--ray", cluster])
    try:
        wait_for(lambda: items_in(tmp_path / "index") > 0)
    finally:
        driver.kill()
    assert driver.wait() == -signal.SIGKILL
    before = items_in(tmp_path / "index")
    assert 0 < before < 600
    status, out, _ = run(*command, "--ray", cluster)
    assert status == 0 and f"{before} unchanged" in out and f"{600 - before} embedded" in out
    check(tmp_path / "index", wanted, frail)


def test_what_kills_its_worker_is_given_up_and_named(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    wanted = texts(tmp_path / "files", 40)
    (tmp_path / "files" / "poison.txt").write_text("kill")
    (tmp_path / "files" / "fruit.txt").write_text("bad apples")
    (tmp_path / "files" / "fruit again.txt").write_text("bad apples")
    status, out, err = run(
        "index", tmp_path / "files", "--to", tmp_path / "index", "--ray", "--model", frail.path
    )
    assert status == 0 and "40 embedded" in out and "3 skipped" in out
    assert "skipped poison.txt: 2 processes ended while they embedded it" in err
    assert "skipped fruit.txt: it is bad. Fix: be good" in err
    assert "skipped fruit again.txt: it is bad. Fix: be good" in err
    check(tmp_path / "index", wanted, frail)


def test_a_second_run_does_what_is_new(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    folder = tmp_path / "files"
    wanted = texts(folder, 30)
    command = ("index", folder, "--to", tmp_path / "index", "--ray")
    run(*command, "--model", frail.path)
    frail.place.joinpath("embedded").unlink()
    (folder / "0000.txt").rename(folder / "moved.txt")
    (folder / "0001.txt").write_text("changed")
    (folder / "0002.txt").unlink()
    os.utime(folder / "0003.txt")
    wanted["moved.txt"], wanted["0001.txt"] = wanted.pop("0000.txt"), "changed"
    del wanted["0002.txt"]
    _, out, _ = run(*command)
    assert "1 embedded, 27 unchanged, 1 moved, 1 removed, 0 skipped" in out
    assert Counter(frail.lines("embedded")) == {"changed": 1}
    check(tmp_path / "index", wanted, frail)


def test_pdfs_are_rows_a_page_that_are_followed(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    folder = tmp_path / "files"
    folder.mkdir()
    pdf(folder / "doc.pdf", 1, 2, 3)
    pdf(folder / "other.pdf", 4, 5)
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 nonsense")
    short = folder / "short.pdf"
    pdf(short, 6, 7)
    short.write_bytes(short.read_bytes().replace(b"/Count 2", b"/Count 3"))
    model = ume_core.load(frail.path, engine="frail")
    alone = Index.create(tmp_path / "one", Description.of(model, folder, "disc", name="frail"))
    reasons = build_index(alone, folder, model).skipped
    assert set(reasons) == {"bad.pdf", "short.pdf#page=3"}
    command = ("index", folder, "--to", tmp_path / "index", "--ray", "--json")
    _, out, _ = run(*command, "--model", frail.path)
    told = json.loads(out)
    assert told["skipped"] == reasons and (told["items"], told["embedded"]) == (7, 7)
    assert Index.open(tmp_path / "index").known() == alone.known()
    with writing(Index.open(tmp_path / "index")) as writer:
        writer.remove(["doc.pdf#page=2"])  # as if a run had been killed
    (folder / "bad.pdf").unlink()
    short.unlink()
    (folder / "other.pdf").rename(folder / "new.pdf")
    for wanted in ((1, 2, 2, 2), (0, 5, 0, 0)):
        _, out, _ = run(*command)
        told = json.loads(out)
        counts = tuple(told[n] for n in ("embedded", "unchanged", "moved", "removed"))
        assert counts == wanted and not told["skipped"]
    pdf(folder / "doc.pdf", 1)  # two pages fewer, in other bytes
    _, out, _ = run(*command)
    told = json.loads(out)
    assert (told["items"], told["embedded"], told["removed"]) == (3, 1, 2)
    build_index(alone, folder, model)
    assert Index.open(tmp_path / "index").known() == alone.known()


def test_a_worker_that_draws_no_pdfs_stops_the_run(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster
    monkeypatch.setattr(reading, "can_draw", lambda: False)
    files = pa.table({"name": ["doc.pdf"], "kind": ["pdf"]})
    (found,) = reading.read_files(files, str(tmp_path), Access(), None, "")
    assert found["state"].to_pylist() == [FATAL]
    assert "lacks what draws PDFs (pip install pypdfium2)" in found["reason"][0].as_py()


def test_a_model_that_workers_cannot_load_is_one_error(
    cluster: str, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    texts(tmp_path / "files", 3)
    command = ("index", tmp_path / "files", "--to", tmp_path / "index", "--ray")
    run(*command, "--model", frail.path)
    frail.path.unlink()
    (tmp_path / "files" / "new.txt").write_text("new")
    status, _, err = run(*command)
    assert status == 2 and "cannot load the model: OSError: no file" in err
    assert "give every node the same packages" in err and len(err.splitlines()) < 3
    assert items_in(tmp_path / "index") == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("nonsense", "'nonsense' is no address of a Ray cluster"),
        ("ray://127.0.0.1:10001", "a Ray Client address"),
    ],
)
def test_a_bad_address_is_an_error_within_seconds(tmp_path: Path, address: str, said: str) -> None:
    """In a process of its own: this one may have a cluster already."""
    texts(tmp_path / "files", 1)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ume_r1", "index", tmp_path / "files", "--to", tmp_path / "index",
         "--ray", address],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr and "Fix: " in done.stderr
    assert "Traceback" not in done.stderr and time.monotonic() - began < 240


def test_folders_and_tables_on_an_object_store_are_read_by_the_workers(
    cluster: str, bucket: Any, tmp_path: Path, frail: Frail, run: Run
) -> None:
    assert cluster
    wanted = texts(tmp_path / "files", 20)
    bucket.upload(tmp_path / "files", "corpus")
    status, out, _ = run(
        "index", f"{bucket.uri}/corpus", "--to", tmp_path / "index", "--ray", "--model", frail.path
    )
    assert status == 0 and "20 embedded" in out
    check(tmp_path / "index", wanted, frail)
    table = pa.table({"id": list(wanted), "text": list(wanted.values())})
    pq.write_table(table, tmp_path / "t.parquet")
    bucket.put("tables/t.parquet", (tmp_path / "t.parquet").read_bytes())
    status, out, _ = run(
        "index", f"{bucket.uri}/tables/t.parquet", "--to", tmp_path / "rows", "--ray", "--model",
        frail.path,
    )  # fmt: skip
    assert status == 0 and "20 embedded" in out
    check(tmp_path / "rows", wanted, frail)
