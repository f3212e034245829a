"""`ume eval mmeb --demo` end to end, and the reports made from its scores."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ume_core.errors import InvalidOption
from ume_eval.data.parse import PARSERS
from ume_eval.demo import DEMO_TASKS
from ume_eval.metrics import means
from ume_eval.report import leaderboard, summarise, write_comparison
from ume_eval.run import read_scores
from ume_eval.tasks import tasks_of
from ume_r1.cli import main

TASKS = {t.name: t for t in tasks_of()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature scored with ume-nano, disc and gen."""
    output = tmp_path_factory.mktemp("run")
    began = time.monotonic()
    assert main(["eval", "mmeb", "--demo", "--output", str(output)]) == 0
    gen = output.with_name("run-gen")
    command = ["eval", "mmeb", "--demo", "--output", str(gen)]
    assert main([*command, "--query-mode", "gen", "--target-mode", "gen"]) == 0
    assert time.monotonic() - began < 180
    return output


def test_the_demo_runs_every_parser(run: Path) -> None:
    records = read_scores(run)
    assert set(records) == set(DEMO_TASKS)
    assert {TASKS[name].parser for name in records} == set(PARSERS)
    assert {r["ranking"] for r in records.values()} == {"local", "global"}
    for record in records.values():
        assert sum(record["status"]["query"].values()) == record["rows"]["queries"]
        assert record["status"]["query"]["failed"] == 0


def test_the_demo_is_never_taken_for_the_benchmark(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["complete"] is False
    assert summary["published"] == {}
    assert summary["means"]["V-QA"]["text"].endswith("*")
    assert summary["means"]["All"]["text"].endswith("(26/78)*")
    assert any("not MMEB-V2 scores" in w for w in summary["warnings"])
    with pytest.raises(InvalidOption, match="52 of 78 tasks are not scored"):
        leaderboard(read_scores(run), tasks_of(), {})


def test_the_page_stands_alone_and_shows_every_task(run: Path) -> None:
    page = (run / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name in DEMO_TASKS:
        assert f"<td>{name}</td>" in page
    assert "one-line" in page  # the request's name


def _record(name: str, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    task = TASKS[name]
    base = {
        "schema": 1, "task": name, "score": score, "metric": task.metric, "complete": True,
        "modality": task.modality, "meta_task": task.meta_task, "ranking": task.ranking,
        "metrics": {task.metric: score, "hit@1": score}, "interval_95": [score, score],
        "protocol": {"name": "v2.1", "vlm2vec_commit": "x"}, "convention": {"name": "official"},
        "modes": {"query": "gen", "target": "gen"},
        "ties": {"policy": "expected", "queries_with_a_tied_positive": 0},
        "rows": {"queries": task.queries, "candidates": 3}, "frames": task.frames,
        "frames_of_the_protocol": task.frames, "data": {"revision": "r"},
        "signature": {"query": {"model": "m", "weights": "w", "dimensions": 8}},
        "status": {"query": {"ok": 1, "forced": 0, "failed": 0},
                   "target": {"ok": 1, "forced": 0, "failed": 0}},
        "cost": {"query": {"seconds": 1.0}, "target": {"seconds": 1.0}}, "versions": {},
    }  # fmt: skip
    return {**base, **changes}


def _whole(**changes: Any) -> dict[str, dict[str, Any]]:
    return {name: _record(name, **changes) for name in TASKS}


def test_published_rows_stand_beside_complete_v2_0_gen_runs_only() -> None:
    protocol = {"name": "v2.0", "vlm2vec_commit": "6ac33bb"}
    assert (
        "UME-R1-2B, gen, published" in summarise(_whole(protocol=protocol), tasks_of())["published"]
    )
    for changes in (
        {},
        {"protocol": protocol, "modes": {"query": "disc", "target": "disc"}},
        {"protocol": protocol, "complete": False},
    ):
        assert summarise(_whole(**changes), tasks_of())["published"] == {}


def test_published_rows_agree_with_themselves() -> None:
    from ume_eval import published

    for row in published.ROWS.values():
        groups = {"image": (10, 10, 12, 4), "video": (5, 5, 5, 3), "visdoc": (10, 4, 6, 4)}
        names = list(row)
        for number, (modality, counts) in enumerate(groups.items()):
            parts = [row[n] for n in names[5 * number : 5 * number + 4]]
            mean = sum(c * p for c, p in zip(counts, parts, strict=True)) / sum(counts)
            assert mean == pytest.approx(row[modality], abs=0.11)
        whole = (36 * row["image"] + 18 * row["video"] + 24 * row["visdoc"]) / 78
        assert whole == pytest.approx(row["All"], abs=0.1)
    video = {n: v / 100 for n, v in published.VIDEO_2B.items()}
    found = means(video, tasks_of("v2.0"))
    assert round(found["video"].value or 0, 1) == pytest.approx(42.2, abs=0.11)
    assert round(found["V-MR"].value or 0, 1) == 39.7


def test_mixed_conditions_are_not_averaged() -> None:
    records = _whole()
    records["GQA"] = _record("GQA", convention={"name": "readme"})
    with pytest.raises(InvalidOption, match="differ in convention"):
        summarise(records, tasks_of())


def test_what_makes_scores_incomparable_is_listed() -> None:
    records = _whole()
    records["MSVD"]["frames"] = 64
    records["GQA"]["status"]["query"] = {"ok": 1, "forced": 2, "failed": 3}
    records["K700"]["data"] = {"revision": None}
    records["NIGHTS"]["ties"] = {"policy": "expected", "queries_with_a_tied_positive": 9}
    found = " ".join(summarise(records, tasks_of())["warnings"])
    for words in ("another number of frames", "3 items have no vector", "2 answers", "9 queries",
                  "revision of 1 tasks"):  # fmt: skip
        assert words in found


def test_the_leaderboards_file() -> None:
    content = leaderboard(_whole(), tasks_of(), {"model_name": "mine", "model_size": 2.2})
    assert content["metadata"]["model_name"] == "mine"
    assert {m: len(t) for m, t in content["metrics"].items()} == {
        "image": 36, "video": 18, "visdoc": 24,
    }  # fmt: skip
    assert "ViDoSeek-page-fixed" in content["metrics"]["visdoc"]
    assert content["metrics"]["image"]["GQA"]["hit@1"] == 0.5
    assert content["metrics"]["image"]["GQA"]["num_data"] == 1000
    with pytest.raises(InvalidOption, match=r"not a complete v2\.1 score"):
        leaderboard(_whole(complete=False), tasks_of(), {})


def test_two_runs_are_compared_query_by_query(run: Path, tmp_path: Path) -> None:
    page = write_comparison(run, run.with_name("run-gen"), tmp_path / "compare.html")
    content = json.loads((tmp_path / "compare.json").read_text("utf-8"))
    assert {r["task"] for r in content["tasks"]} == set(DEMO_TASKS)
    for row in content["tasks"]:
        assert row["difference"] == pytest.approx(row["first"] - row["second"], abs=1e-3)
        assert row["low"] <= row["difference"] <= row["high"]
    assert any(note.startswith("modes") for note in content["notes"])
    assert "<svg" in page.read_text("utf-8")
    same = write_comparison(run, run, tmp_path / "same.html")
    assert all(
        r["low"] == r["high"] == 0
        for r in json.loads(same.with_suffix(".json").read_text())["tasks"]
    )


def test_names_are_escaped_in_pages() -> None:
    from ume_eval.report.write import render

    page = render("comparison.html", title="<script>", rows=[], notes=["<b>"], plot="<svg/>")
    assert "<script>" not in page and "<b>" not in page and "<svg/>" in page


def test_the_readmes_python_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(block, "README.md", "exec"), {})


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "tasks", "V-MR"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "VLM2Vec/MomentSeeker" in lines[2]


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["mmeb"], "--data is missing"),
        (["mmeb", "--data", str(tmp_path)], "--model is missing"),
        (["mmeb", "--data", str(tmp_path), "--check", "--tasks", "MSVD"], "no annotations in"),
        (["mmeb", "--demo", "--output", str(tmp_path), "--tasks", "GQQ"], "no task is called"),
    ):
        assert main(["eval", *arguments]) == 2
        assert message in capsys.readouterr().err
