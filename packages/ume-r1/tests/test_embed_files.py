"""`ume embed` in pipes: what it takes, what rows are called, and going on after an interruption."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ume_core import UmeError
from ume_core.testing import FakeEmbedder
from ume_core.testing.contract import picture
from ume_r1.cli import main
from ume_r1.commands import embed as command
from ume_r1.vectors import VectorFile


class Counting(FakeEmbedder):
    """Counts the items it is given, and stops at one if it is told to."""

    def __init__(self) -> None:
        super().__init__(dimensions=16)
        self.items = 0
        self.stop_at: int | None = None

    def embed(self, items: Any, **named: Any) -> Any:
        if self.stop_at is not None and self.items >= self.stop_at:
            raise KeyboardInterrupt
        self.items += len(items)
        return super().embed(items, **named)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Counting:
    embedder = Counting()
    monkeypatch.setattr(command, "load_from", lambda args: embedder)
    return embedder


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def pipe(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


@pytest.mark.usefixtures("model")
def test_lines_of_standard_input_are_texts_with_ids_that_join(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a very long text about nothing, whose first forty characters are not its own "
    pipe(f"a dog\r\n\n{long}one\n{long}two".encode(), monkeypatch)
    assert main(["embed", "-", "--text", "a dog"]) == 0
    found = rows(capsys)
    assert [row["text"] for row in found] == ["a dog", f"{long}one", f"{long}two", "a dog"]
    ids = [row["id"] for row in found]
    assert len(set(ids)) == 3 and ids[0] == ids[3] == "text:7dbdf68ac0bb3482"
    assert found[0]["disc"] == found[3]["disc"]


@pytest.mark.usefixtures("model")
def test_paths_that_end_in_nul_folders_and_patterns(
    folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    odd = folder / "a" / "two\nlines.png"
    picture(8).save(odd)
    (folder / "a" / "IMG_1.CR2").write_bytes(b"raw")
    pipe(bytes(odd) + b"\0" + bytes(folder / "b" / "p0.png") + b"\0", monkeypatch)
    assert main(["embed", "-0", "--id-from", "stem"]) == 0
    assert [row["id"] for row in rows(capsys)] == ["two\nlines", "p0"]
    assert main(["embed", str(folder / "a")]) == 0
    said = capsys.readouterr()
    named = [Path(json.loads(line)["id"]).name for line in said.out.splitlines()]
    assert named == ["note.txt", "p0.png", "p1.png", odd.name]
    assert "left out 1 .cr2 file. Fix: export them as JPEG" in said.err
    assert main(["embed", str(folder / "*" / "p*.png")]) == 0
    assert len(rows(capsys)) == 4
    assert main(["embed", str(folder / "*.gif")]) == 2
    assert "is named like" in capsys.readouterr().err
    assert main(["embed", str(folder), "--id-from", "name"]) == 2
    assert "have the same id 'note.txt'. Fix: use --id-from path" in capsys.readouterr().err


@pytest.mark.usefixtures("model")
def test_parquet_has_the_same_typed_columns_whatever_the_items_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schemas: list[pa.Schema] = []
    for name, files in (("good", ["a/p0.png"]), ("bad", ["a/p0.png", "gone.png"])):
        out = tmp_path / f"{name}.parquet"
        main(["embed", *(str(folder / f) for f in files), "--mode", "both", "--out", str(out)])
        schemas.append(pq.read_schema(out))
    assert schemas[0].equals(schemas[1])
    kind = pa.list_(pa.float32(), 16)
    assert schemas[0].field("disc").type == schemas[0].field("gen").type == kind
    assert schemas[0].field("reason").type == pa.string()
    table = pq.read_table(tmp_path / "bad.parquet")
    assert table["status"].to_pylist() == ["ok", "failed"]
    assert table["disc"][1].as_py() is None and "no such file" in table["reason"][1].as_py()
    expected = FakeEmbedder(16).embed([folder / "a/p0.png"]).vectors("disc")
    np.testing.assert_array_equal(np.float32(table["disc"][0].as_py()), expected[0])
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz"])
def test_an_interrupted_run_goes_on_where_it_stopped(
    suffix: str, model: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out{suffix}"
    texts = [f"--text=number {n}" for n in range(200)]
    model.stop_at = 128
    assert main(["embed", *texts, "--out", str(out)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert model.items == 128 and not out.exists()
    model.stop_at = None
    assert main(["embed", *texts, "--instruction", "x", "--out", str(out)]) == 2
    assert "other options" in capsys.readouterr().err
    assert main(["embed", *texts, "--text", "more", "--out", str(out)]) == 0
    assert model.items == 201 and "128 of 201 items were done" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]
    if suffix == ".parquet":
        found = pq.read_table(out)["text"].to_pylist()
    elif suffix == ".jsonl":
        found = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    else:
        with np.load(out) as stored:
            found = [json.loads(record)["text"] for record in stored["records"]]
            assert stored["disc"].shape == (201, 16) and len(stored["ids"]) == 201
    assert found == [*(f"number {n}" for n in range(200)), "more"]


def test_what_a_killed_run_wrote_is_kept_up_to_the_last_whole_chunk(
    model: Counting, tmp_path: Path
) -> None:
    out = tmp_path / "x.parquet"
    texts = [f"--text=number {n}" for n in range(200)]
    model.stop_at = 128
    main(["embed", *texts, "--out", str(out)])
    journal = out.with_name(".x.parquet.part")
    journal.write_bytes(journal.read_bytes()[:-200])  # the second chunk is cut
    model.stop_at = None
    assert main(["embed", *texts, "--out", str(out)]) == 0
    assert model.items == 128 + 136 and pq.read_table(out).num_rows == 200


def test_a_file_that_changed_meanwhile_is_embedded_again(
    folder: Path, model: Counting, tmp_path: Path
) -> None:
    out = tmp_path / "x.jsonl"
    for number in range(70):
        (folder / f"t{number:02}.txt").write_text(str(number))
    model.stop_at = 64
    assert main(["embed", str(folder), "--out", str(out)]) == 130
    (folder / "a" / "note.txt").write_text("another text")
    model.stop_at = None
    assert main(["embed", str(folder), "--out", str(out)]) == 0
    row = next(r for r in map(json.loads, out.read_text().splitlines()) if "a/note" in r["id"])
    expected = FakeEmbedder(16).embed(["another text"]).vectors("disc")[0]
    assert model.items == 64 + 13
    np.testing.assert_allclose(row["disc"], expected, atol=1e-7)


def test_another_model_does_not_go_on_with_foreign_rows(
    model: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npz"
    texts = [f"--text=number {n}" for n in range(70)]
    model.stop_at = 64
    assert main(["embed", *texts, "--out", str(out)]) == 130
    monkeypatch.setattr(command, "load_from", lambda args: FakeEmbedder(dimensions=8))
    assert main(["embed", *texts, "--out", str(out)]) == 2
    with pytest.raises(UmeError, match="other options or another model"):
        VectorFile(out, {"mode": "gen"})


def test_control_c_in_a_real_run_keeps_what_is_done(tmp_path: Path) -> None:
    for number in range(600):
        picture(number).save(tmp_path / f"{number:04}.png")
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "ume_r1", "embed", str(tmp_path), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    part = out.with_name(".out.parquet.part")
    while not (part.exists() and part.stat().st_size > 50_000) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    if process.returncode == 0:
        pytest.skip("it was done before it was interrupted")
    assert process.returncode == 130 and "the same command goes on" in error
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "items were done" in done.stderr and pq.read_table(out).num_rows == 600
