"""Batch files: answered as the server answers, and gone on with after a kill."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ume_core.embedder import Embedder
from ume_r1.cli import main
from ume_server.commands import run_batch
from ume_server.testing import MODEL, equal


@pytest.fixture(autouse=True)
def loaded(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the other tests, not loaded again."""
    monkeypatch.setattr(run_batch, "load", lambda *_, **__: model)


def write(path: Path, *bodies: Any) -> Path:
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for n, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def answers(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"] for line in lines}


def test_every_request_is_answered_as_by_the_server(tmp_path: Path, model: Embedder) -> None:
    file = write(
        tmp_path / "in.jsonl",
        {"model": MODEL, "input": ["a dog", "a bus"]},
        {"model": f"{MODEL}:gen", "input": "a dog", "max_new_tokens": 6},
        {"model": "gpt-4", "input": "a"},
        {"model": MODEL, "input": ["a", ""]},
        {"model": MODEL, "input": ["a", ""], "on_error": "record"},
    )
    out = tmp_path / "out.jsonl"
    assert main(["run-batch", str(file), "--out", str(out)]) == 1
    found = answers(out)
    statuses = {name: r["status_code"] for name, r in found.items()}
    assert statuses == {"r0": 200, "r1": 200, "r2": 404, "r3": 400, "r4": 200}
    disc = [entry["embedding"] for entry in found["r0"]["body"]["data"]]
    equal(disc, model.embed(["a dog", "a bus"]).disc)
    gen = model.embed(["a dog"], mode="gen", max_new_tokens=6).gen
    equal([found["r1"]["body"]["data"][0]["embedding"]], gen)
    assert "item 1: the text is empty" in found["r3"]["body"]["error"]["message"]
    assert found["r4"]["body"]["data"][1]["status"] == "failed"


def test_a_killed_run_goes_on_without_losing_or_repeating_an_answer(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", *({"input": f"text {n}"} for n in range(6)))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main(["run-batch", str(file), "--out", str(whole)]) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed in the middle of a line
    assert main(["run-batch", str(file), "--out", str(out)]) == 0
    assert out.read_bytes().splitlines(keepends=True)[:2] == lines[:2]
    found, expected = answers(out), answers(whole)
    assert set(found) == set(expected)
    for name, response in expected.items():
        one, other = (r["body"]["data"][0]["embedding"] for r in (found[name], response))
        equal([one], [other])
    before = out.read_bytes()
    assert main(["run-batch", str(file), "--out", str(out)]) == 0 and out.read_bytes() == before


@pytest.fixture
def no_room() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond some bytes, as on a full disk, until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_no_answer_that_was_written(
    tmp_path: Path, no_room: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", *({"input": f"text {n}"} for n in range(6)))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main(["run-batch", str(file), "--out", str(whole)]) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    no_room(sum(map(len, lines[:3])) + 50)
    assert main(["run-batch", str(file), "--out", str(out)]) == 2
    no_room(1 << 30)
    said = capsys.readouterr().err
    assert "3 of 6 answers are in" in said and "Fix: " in said
    kept = out.read_bytes()
    assert len(kept.splitlines()) == 4  # the last one a part
    assert main(["run-batch", str(file), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"".join(kept.splitlines(keepends=True)[:3]))
    assert set(answers(out)) == {f"r{n}" for n in range(6)}
    assert main(["run-batch", str(file), "--out", "/dev/full"]) == 2
    assert "is no file" in capsys.readouterr().err


def test_what_is_no_batch_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    assert main(["run-batch", str(file), "--out", str(out)]) == 2
    file.write_text('{"custom_id": "a", "url": "/v1/chat"}\nnot json\n{"custom_id": 3}\n', "utf-8")
    assert main(["run-batch", str(file), "--out", str(out)]) == 1
    assert {n: r["status_code"] for n, r in answers(out).items()} == {
        "a": 400, "line-2": 400, "line-3": 400,
    }  # fmt: skip
    write(file, {"input": "a"})
    file.write_bytes(file.read_bytes() * 2)
    other = tmp_path / "other.jsonl"
    assert main(["run-batch", str(file), "--out", str(other)]) == 2
    other.write_text("{}\n", "utf-8")
    assert main(["run-batch", str(file), "--out", str(other)]) == 2
    assert "repeats the custom_id" in capsys.readouterr().err
