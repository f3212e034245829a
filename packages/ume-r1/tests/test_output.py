"""Commands whose output goes to terminals and files that lack some characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

import ume_r1 as ume
from ume_core.limits import Limits
from ume_r1.cli import main
from ume_r1.files import item_from_file
from ume_r1.output import json_line

TEXTS = ["crème brûlée", "犬", "🦄 €", "плюс"]
ENCODINGS = ["ascii", "cp1252", "utf-16"]


class Terminal:
    """Standard output and error of an encoding that refuses what it lacks."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        self.out, self.err = io.BytesIO(), io.BytesIO()
        for name, raw in (("stdout", self.out), ("stderr", self.err)):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding, errors="strict"))

    def read(self) -> str:
        """What was printed."""
        sys.stdout.flush()
        return self.out.getvalue().decode(self.encoding)

    def read_errors(self) -> str:
        """What was printed to standard error."""
        sys.stderr.flush()
        return self.err.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_vectors_are_printed_as_json_in_every_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(encoding, monkeypatch)
    assert main(["embed", *(f"--text={t}" for t in TEXTS)]) == 0
    rows = [json.loads(line) for line in terminal.read().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    expected = ume.load("ume-nano").embed(TEXTS).disc
    assert expected is not None
    np.testing.assert_allclose([row["disc"] for row in rows], expected, atol=1e-5)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_and_errors_are_escaped_where_they_must_be(
    encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "фото"
    folder.mkdir()
    (folder / "犬.txt").write_text("a dog", "utf-8")
    (folder / "кот.png").write_bytes(b"no picture")
    terminal = Terminal(encoding, monkeypatch)
    assert main(["explain", str(folder / "犬.txt")]) == 0
    assert main(["embed", str(folder / "кот.png"), "--text", "x"]) == 1
    assert main(["embed", "犬.png"]) == 1
    assert main(["index", str(folder), "--to", str(tmp_path / "ix")]) == 0
    assert main(["search", str(tmp_path / "ix"), "a dog"]) == 0
    shown = terminal.read()
    name = "犬.txt".encode(encoding, "backslashreplace").decode(encoding)
    assert shown.count(name) == 2
    assert "Traceback" not in terminal.read_errors()


def test_a_name_that_is_no_unicode_is_written_to_every_format(tmp_path: Path) -> None:
    path = os.fsencode(str(tmp_path)) + b"/caf\xe9.png"
    try:
        with open(path, "wb") as handle:  # noqa: PTH123 - a name in bytes
            PILImage.new("RGB", (56, 56), "red").save(handle, "PNG")
    except OSError:
        pytest.skip("this file system takes no such names")
    name = os.fsdecode(path)
    for suffix in (".jsonl", ".parquet", ".npz"):
        assert main(["embed", name, "--out", str(tmp_path / f"out{suffix}")]) == 0
    line = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    (stored,) = pq.read_table(tmp_path / "out.parquet")["id"].to_pylist()
    assert stored.endswith("caf\\udce9.png")
    assert line["id"] == stored and np.load(tmp_path / "out.npz")["ids"][0] == stored


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_encoding_may_come_from_the_environment(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ume_r1.cli", "embed", "--text", "犬"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["text"] == "犬"


def test_a_closed_standard_output_is_no_error() -> None:
    code = "import sys; sys.stdout = None; from ume_r1.cli import main; sys.exit(main(['models']))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_json_keeps_letters_where_it_can() -> None:
    assert json_line({"a": "é"}, "latin-1") == '{"a": "é"}'
    assert json_line({"a": "犬"}, "latin-1") == '{"a": "\\u72ac"}'
    assert json_line({"a": "\udce9"}) == '{"a": "\\udce9"}'
    assert json_line({"a": "é"}, None) == '{"a": "é"}'


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "notepad.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"a dog{ends}above a red apple".encode())
    assert item_from_file(path, Limits()).text == "a dog\nabove a red apple"
