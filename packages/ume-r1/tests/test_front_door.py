"""`ume_r1.load` and the `ume` command, with the embedded model, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

import ume_r1 as ume
from ume_core import Embedder
from ume_core.testing.contract import picture
from ume_qwen.testing.fixtures import write_clip
from ume_r1.cli import main
from ume_r1.index import Index


@pytest.fixture(scope="module")
def model() -> Embedder:
    return ume.load("ume-nano")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my files"
    (root / "sub").mkdir(parents=True)
    for number in range(3):
        picture(number).save(root / f"p{number}.png")
    (root / "sub" / "note it's.txt").write_text("a red apple")
    write_clip(root / "sub" / "c.mp4", [picture(9 + i) for i in range(4)], fps=4)
    (root / ".hidden.png").write_bytes(b"x")
    (root / "other.dat").write_bytes(b"x")
    return root


def run(*arguments: str | Path) -> int:
    return main([str(a) for a in arguments])


def test_the_readmes_call_works(model: Embedder) -> None:
    a, b = picture(1), picture(2)
    result = model.embed(
        [
            "a red apple",
            ume.Image(picture(3)),
            [ume.Text("which one?"), ume.Image(a), ume.Image(b)],
            {"image": a, "text": "what is it?"},
            [{"role": "user", "content": [{"type": "image", "image": a}]}],
        ],
        mode="both",
    )
    assert result.disc is not None and result.gen is not None
    assert result.disc.shape == result.gen.shape == (5, model.dimensions)
    assert result.signature.model == "ume-nano"
    disc, gen = result.signature.for_mode("disc"), result.signature.for_mode("gen")
    disc.check(gen)  # ume-nano states that its vectors share one space
    with pytest.raises(ume.UmeError, match="mode: disc != gen"):
        replace(disc, aligned=False).check(gen)


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".parquet"])
def test_embed_writes_vectors_records_and_signature(
    folder: Path, tmp_path: Path, suffix: str, model: Embedder
) -> None:
    out = tmp_path / f"x{suffix}"
    files = [folder / "p0.png", folder / "sub" / "c.mp4"]
    arguments = ["--text", "a dog", "--mode", "both", "--max-new-tokens", "8", "--out", out]
    assert run("embed", *files, *arguments) == 0
    expected = model.embed([*files, "a dog"], mode="both", max_new_tokens=8)
    if suffix == ".npz":
        with np.load(out, allow_pickle=False) as stored:
            disc, gen = stored["disc"], stored["gen"]
            assert ume.Signature.from_dict(json.loads(str(stored["signature"]))) == (
                expected.signature
            )
            assert json.loads(stored["records"][0])["status"] in ("ok", "forced")
    else:
        rows = (
            [json.loads(line) for line in out.read_text().splitlines()]
            if suffix == ".jsonl"
            else pq.read_table(out).to_pylist()
        )
        disc, gen = (np.array([r[m] for r in rows], np.float32) for m in ("disc", "gen"))
        assert {r["signature"] for r in rows} == {expected.signature.digest}
    assert expected.disc is not None and expected.gen is not None
    np.testing.assert_allclose(disc, expected.disc, atol=1e-5)
    np.testing.assert_allclose(gen, expected.gen, atol=1e-5)


def test_failed_files_are_named_and_the_others_are_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    out = tmp_path / "x.jsonl"
    files = ["bad.png", "p0.png", "gone.txt", "p0.what", "p0.png"]
    (folder / "p0.what").write_bytes(b"x")
    named = [folder / name for name in files]
    assert run("embed", *named, "--mode", "both", "--max-new-tokens", "8", "--out", out) == 1
    said = capsys.readouterr().err
    for message in ("bad.png is not an image", "no such file", "cannot tell from its name"):
        assert message in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["id"] for r in rows] == [str(n) for n in named]
    assert [r["status"] == "failed" for r in rows] == [True, False, True, True, False]
    assert [r["disc"] is None and r["gen"] is None for r in rows] == [
        r["status"] == "failed" for r in rows
    ]
    assert run("explain", folder / "gone.txt", folder / "p0.png") == 1
    assert "p0.png\n  thinking" in capsys.readouterr().out
    # The same kind of failure, the same status.
    assert run("embed", folder / "gone.txt") == run("embed", folder / "gone.png") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "nothing to embed"),
        (["embed", "--text", "a", "--out", "x.csv"], "end its name in"),
        (["embed", "--text", "a", "--out", "no/folder/x.npz"], "create it first"),
        (["embed", "--text", "a", "--model", "/no/such"], "no checkpoint directory"),
        (["search", "/nowhere", "x"], "ume index FOLDER"),
        (["index", "/nowhere", "--to", "/tmp/x"], "does not exist"),
    ],
    ids=str,
)
def test_wrong_calls_say_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_explain_prints_thinking_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "--text", "a red apple", "--max-new-tokens", "40") == 0
    shown = capsys.readouterr().out
    assert "thinking:" in shown and "summary:" in shown and "tokens:" in shown


def test_listing_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0 and run("plugins") == 0
    shown = capsys.readouterr().out
    assert "ume-nano" in shown and "available" in shown


def test_index_search_update_and_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, page = tmp_path / "index", tmp_path / "page.html"

    def report() -> str:
        assert run("index", folder, "--to", index) == 0
        return capsys.readouterr().out

    assert "5 items" in report()
    assert "0 embedded, 5 unchanged" in report()
    (folder / "p0.png").rename(folder / "renamed.png")
    picture(77).save(folder / "p1.png")
    (folder / "p2.png").unlink()
    assert "4 items" in (text := report()) and "1 embedded, 2 unchanged, 1 moved, 1 removed" in text

    assert run("search", index, "--image", folder / "renamed.png", "--html", page) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "renamed.png" in first and float(first.split()[0]) == pytest.approx(1, abs=1e-3)
    html = page.read_text()
    assert html.count("data:image/") >= 4 and "<script" not in html
    assert run("search", index, "--video", folder / "sub" / "c.mp4", "--top", "1") == 0
    assert "c.mp4" in capsys.readouterr().out
    assert run("search", index, "--top", "1", "a red apple") == 0  # words may follow options
    assert "note it's.txt" in capsys.readouterr().out


def test_names_and_thinking_are_escaped_in_the_page(folder: Path, tmp_path: Path) -> None:
    (folder / "<script>alert(1)<").mkdir()
    picture(1).save(folder / "<script>alert(1)<" / "<img src=x>.png")
    page = tmp_path / "page.html"
    assert run("index", folder, "--to", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", "<script>hello", "--html", page) == 0
    assert "<script" not in page.read_text() and "<img src=x" not in page.read_text()


def test_unreadable_files_are_listed_and_strict_fails(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.png").write_bytes(b"")
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "cut.mp4").write_bytes((folder / "sub" / "c.mp4").read_bytes()[:200])
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    picture(5).save(tmp_path / "outside.png")
    index = tmp_path / "index"
    assert run("index", folder, "--to", index) == 0
    shown = capsys.readouterr()
    assert "5 items" in shown.out and "4 skipped" in shown.out
    for name in ("empty.png", "bad.jpg", "cut.mp4", "link.png"):
        assert f"skipped {name}: " in shown.err
    assert run("index", folder, "--to", index, "--strict") == 1
    # A file that cannot be read any more is not found by what it once was.
    (folder / "p0.png").write_bytes(b"damaged")
    assert run("index", folder, "--to", index) == 0
    assert "4 items" in capsys.readouterr().out


def test_other_models_modes_and_folders_are_refused_with_the_fix(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    assert run("index", folder, "--to", index) == 0
    assert run("index", folder, "--to", index, "--mode", "gen") == 2
    assert "--mode disc" in capsys.readouterr().err
    assert run("search", index, "x", "--mode", "gen") == 2
    assert "index again with --mode gen" in capsys.readouterr().err
    assert run("search", index, "x", "--text-only", "plain") == 2
    assert "text_only: blank != plain" in capsys.readouterr().err
    page = tmp_path / "no folder" / "x.html"
    assert run("search", index, "x", "--html", page) == 2
    assert "create it first" in capsys.readouterr().err
    assert run("index", folder / "sub", "--to", index) == 2
    assert "choose another --to" in capsys.readouterr().err


def test_a_gen_index_keeps_and_shows_the_thinking(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, page = tmp_path / "index", tmp_path / "page.html"
    limits = ["--max-new-tokens", "24"]
    assert run("index", folder, "--to", index, "--mode", "both", *limits) == 0
    arguments = ["--mode", "gen", "--html", page, *limits]
    assert run("search", index, "a red apple", *arguments) == 0
    assert "thinking:" in capsys.readouterr().out
    assert "blockquote" in page.read_text()


def test_kill_9_loses_and_doubles_nothing(folder: Path, tmp_path: Path, model: Embedder) -> None:
    for number in range(300):
        picture(1000 + number).save(folder / f"many{number}.png")
    index = tmp_path / "index"
    command = [sys.executable, "-m", "ume_r1.cli", "index", str(folder), "--to", str(index)]
    kills = 0
    for seconds in (0.3, 0.7, 1.2, 1.9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Count from when the index exists, so that the kills fall into the writing.
        until = time.monotonic() + 60
        while not (index / "ume-index.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(seconds)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        rows = list(Index.open(index).known())
        assert len(rows) == len(set(rows))
    assert kills >= 2
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "305 items" in done.stdout and "0 skipped" in done.stdout
    stored = Index.open(index)
    assert len(stored) == 305
    hits = stored.search(model.embed([folder / "many7.png"]).vectors("disc")[0], "disc", 1)
    assert hits[0].name == "many7.png"


def test_words_that_name_a_picture_are_warned_of(folder: Path, model: Embedder) -> None:
    path = folder / "p0.png"
    words, picture_of = model.embed([str(path), path]).records
    assert words.warnings and "pass Image(...)" in words.warnings[0]
    assert not picture_of.warnings


def test_a_phone_sized_photo_is_embedded(model: Embedder) -> None:
    photo = PILImage.effect_noise((4000, 3000), 60).convert("RGB")
    result = model.embed([ume.Image(photo)])
    assert result.records[0].prompt_tokens < 40


def test_pipes_odd_names_and_damaged_indexes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.txt")
    latin = os.fsencode(str(folder)) + b"/caf\xe9.png"
    Path(os.fsdecode(latin)).write_bytes((folder / "p0.png").read_bytes())
    index = tmp_path / "index"
    assert run("index", folder, "--to", index) == 0
    shown = capsys.readouterr()
    assert "5 items" in shown.out and "3 skipped" in shown.out
    assert "not valid UTF-8" in shown.err and "not a regular file" in shown.err

    meta = index / "ume-index.json"
    good = meta.read_text()
    for damage in ("[]", '{"version": 1}', good.replace('"prompt"', '"promt"'), "{"):
        meta.write_text(damage)
        assert run("search", index, "x") == 2
        assert "Fix: " in capsys.readouterr().err
    meta.write_text(good)
    shutil.rmtree(index / "lance")
    assert run("search", index, "x") == 2
    assert "is damaged" in capsys.readouterr().err
    assert run("index", folder, "--to", index) == 0  # rebuilds what is lost
