"""The runner: nothing lost when killed, one or two processes, shared candidates, score files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core import EmbeddingResult, ItemLike, Record
from ume_core.errors import InvalidItem, InvalidOption
from ume_core.testing import FakeEmbedder
from ume_eval.data import Annotations, Entry, parse
from ume_eval.demo import demo_tasks
from ume_eval.run import (
    Encoder,
    EncoderOptions,
    RunOptions,
    VectorStore,
    preflight,
    read_scores,
    require_ready,
    run_task,
    run_tasks,
)
from ume_eval.tasks import Task

TASKS = {t.name: t for t in demo_tasks()}
CHOSEN = ["ImageNet-1K", "MomentSeeker", "ViDoSeek-doc"]


class Counting(FakeEmbedder):
    """Remembers how many items it was given, and fails on chosen texts."""

    def __init__(self, bad: str = "") -> None:
        super().__init__()
        self.calls: list[int] = []
        self.bad = bad

    def embed(self, items: Sequence[ItemLike], **options: Any) -> EmbeddingResult:
        self.calls.append(len(items))
        result = super().embed(items, **options)
        failed = [n for n, i in enumerate(items) if self.bad and self.bad == i.text]  # pyright: ignore
        if not failed:
            return result
        records = list(result.records)
        disc = np.array(result.disc)
        for n in failed:
            records[n] = Record("failed", str(InvalidItem("bad")))
            disc[n] = np.nan
        return replace(result, records=tuple(records), disc=disc)


def _encoder(folder: Path, embedder: FakeEmbedder | None = None, chunk: int = 7) -> Encoder:
    return Encoder(embedder or Counting(), folder, options=EncoderOptions(chunk=chunk))


def _result(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal between two ways to the same score: all but time."""
    cost = {s: {k: v for k, v in c.items() if k != "seconds"} for s, c in record["cost"].items()}
    return {**record, "cost": cost}


def test_a_score_file_says_everything_that_decides_it(demo: Annotations, tmp_path: Path) -> None:
    options = RunOptions(convention="official")
    records = run_tasks(
        [TASKS["ViDoSeek-doc"]], demo, _encoder(tmp_path / "vectors"), tmp_path, options
    )
    (record,) = read_scores(tmp_path).values()
    assert record == json.loads(json.dumps(records["ViDoSeek-doc"]))
    assert record["protocol"] == {"name": "v2.1", "vlm2vec_commit": "55b056a"}
    assert record["metric"] == "ndcg_linear@5"
    assert record["score"] == record["metrics"]["ndcg_linear@5"]
    assert "ndcg_linear@5_upstream" in record["metrics"]
    assert record["upstream_exact"] is False
    assert record["ranking"] == "global"
    assert record["ties"]["policy"] == "expected"
    assert record["rows"] == {"queries": 6, "queries_of_the_protocol": None, "candidates": 18}
    assert record["convention"]["name"] == "official"
    assert {"prompt", "min_pixels", "max_pixels", "text_only"} <= set(record["convention"])
    assert record["status"]["query"] == {"ok": 6, "forced": 0, "failed": 0}
    assert record["data"]["repo"] == "VLM2Vec/ViDoSeek"
    assert record["signature"]["query"]["mode"] == "disc"
    assert {"numpy", "ume-core", "python"} <= set(record["versions"])
    assert np.mean(record["per_query"]) == pytest.approx(record["score"], abs=1e-6)
    low, high = record["interval_95"]
    assert low <= record["score"] <= high


def test_equal_content_is_embedded_once_across_tasks(demo: Annotations, tmp_path: Path) -> None:
    embedder = Counting()
    encoder = _encoder(tmp_path, embedder)
    first, second = TASKS["MSVD"], TASKS["MSR-VTT"]  # the same clips, under other names
    run_task(first, demo, encoder, RunOptions())
    before = sum(embedder.calls)
    distinct = {e.digest() for e in parse(first, demo).entries}
    assert before == len(distinct)
    run_task(second, demo, encoder, RunOptions())
    assert sum(embedder.calls) - before == len(parse(second, demo).queries)


def test_a_second_run_computes_nothing_and_scores_alike(demo: Annotations, tmp_path: Path) -> None:
    once = run_task(TASKS["MVBench"], demo, _encoder(tmp_path), RunOptions())
    embedder = Counting()
    again = run_task(TASKS["MVBench"], demo, _encoder(tmp_path, embedder), RunOptions())
    assert embedder.calls == []
    assert _result(again) == _result(once)


def test_other_budgets_and_modes_do_not_share_vectors(demo: Annotations, tmp_path: Path) -> None:
    for options in (EncoderOptions(32), EncoderOptions(64)):
        embedder = Counting()
        encoder = Encoder(embedder, tmp_path, options=options)
        run_task(TASKS["MSVD"], demo, encoder, RunOptions(query_mode="gen", target_mode="gen"))
        assert embedder.calls
    embedder = Counting()
    # A budget decides nothing about disc.
    for options in (EncoderOptions(32), EncoderOptions(64)):
        run_task(TASKS["MSVD"], demo, Encoder(embedder, tmp_path, options=options), RunOptions())
    assert len(embedder.calls) == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_failed_items_are_misses_counted_and_tried_again(demo: Annotations, tmp_path: Path) -> None:
    bad = parse(TASKS["MSVD"], demo).queries[2].entry.text
    record = run_task(TASKS["MSVD"], demo, _encoder(tmp_path, Counting(bad)), RunOptions())
    assert record["status"]["query"] == {"ok": 3, "forced": 0, "failed": 1}
    assert record["per_query"][2] == 0.0
    embedder = Counting()
    record = run_task(TASKS["MSVD"], demo, _encoder(tmp_path, embedder), RunOptions())
    assert embedder.calls == [1]
    assert record["status"]["query"]["failed"] == 0


def test_a_chunk_that_was_being_written_does_no_harm(tmp_path: Path) -> None:
    signature = FakeEmbedder().signature("disc")
    store = VectorStore(tmp_path, signature)
    store.put(["a" * 32], np.ones((1, signature.dimensions), np.float32), [Record("ok")], 1.0)
    (tmp_path / "half.part").write_bytes(b"PK\x03\x04 cut")
    again = VectorStore(tmp_path, signature)
    assert again.missing(["a" * 32, "b" * 32, "b" * 32]) == [1]
    assert again.get(["a" * 32]).vectors.shape == (1, signature.dimensions)


def test_keys_hold_no_paths(demo: Annotations, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "elsewhere"
    shutil.copytree(demo.data, copy)
    encoder = _encoder(tmp_path / "vectors")
    once = run_task(TASKS["MomentSeeker"], demo, encoder, RunOptions())
    embedder = Counting()
    moved = Annotations(copy, copy / ".arrow")
    again = run_task(
        TASKS["MomentSeeker"], moved, _encoder(tmp_path / "vectors", embedder), RunOptions()
    )
    assert embedder.calls == []
    assert _result(again) == _result(once)


def test_a_changed_picture_is_embedded_again(tmp_path: Path) -> None:
    from PIL import Image

    from ume_eval.data import Media

    path = tmp_path / "a.png"
    embedder = Counting()
    encoder = _encoder(tmp_path / "vectors", embedder)
    for colour in ("red", "blue", "blue"):
        Image.new("RGB", (30, 30), colour).save(path)
        encoder.embed([Entry("a", "t", Media("image", (path,)))], "disc")
    assert embedder.calls == [1, 1]


def _command(*arguments: str) -> list[str]:
    tail = ["eval", "mmeb", "--demo", "--chunk", "5", "--query-mode", "gen", "--target-mode", "gen"]
    return ["-m", "ume_r1.cli", *tail, "--device", "cpu", *arguments, "--tasks", *CHOSEN]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Scores of one process that nobody disturbed."""
    output = tmp_path_factory.mktemp("straight")
    subprocess.run(
        [sys.executable, *_command("--output", str(output))],
        check=True, env=_environment(), capture_output=True,
    )  # fmt: skip
    return {name: _result(r) for name, r in read_scores(output).items()}


def test_killed_at_any_moment_and_resumed_it_scores_the_same(
    straight: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    command = [sys.executable, *_command("--output", str(tmp_path))]
    kills = 0
    for wanted in (2, 9):  # chunks on disk when the process is killed
        process = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(tmp_path.glob("vectors/*/*.npz"))) < wanted:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2
    chunks = {p: p.stat().st_mtime_ns for p in tmp_path.glob("vectors/*/*.npz")}
    assert chunks
    subprocess.run(command, check=True, env=_environment(), capture_output=True)
    assert all(p.stat().st_mtime_ns == t for p, t in chunks.items())  # none computed twice
    assert {name: _result(r) for name, r in read_scores(tmp_path).items()} == straight


def test_two_processes_score_as_one(straight: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        *_command("--output", str(tmp_path)),
    ]  # fmt: skip
    subprocess.run(command, check=True, env=_environment(), capture_output=True)
    found = read_scores(tmp_path)
    assert {name: _result(r) for name, r in found.items()} == straight
    writers = {p.stem.split("-")[-1] for p in tmp_path.glob("vectors/*/*.npz")}
    assert len(writers) == 2


def test_preflight_names_commands_for_everything_that_is_missing(tmp_path: Path) -> None:
    tasks = [t for t in demo_tasks() if t.name in ("GQA", "ChartQA", "MSVD", "ViDoSeek-page")]
    checks = preflight(tasks, Annotations(tmp_path))
    with pytest.raises(InvalidOption) as caught:
        require_ready(checks)
    text = str(caught.value)
    assert "3 of 3 tasks cannot be scored" in text
    assert (
        f"hf download ziyjiang/MMEB_Test_Instruct --repo-type dataset --local-dir {tmp_path}"
        in text
    )
    assert "hf download TIGER-Lab/MMEB-V2 --repo-type dataset --include 'image-tasks/*'" in text
    assert "tar -xzf video_ret.tar.gz -C video_ret" in text
    assert "hf download VLM2Vec/ViDoSeek-page-fixed" in text


def test_preflight_accepts_the_miniature_but_not_as_the_benchmark(demo: Annotations) -> None:
    require_ready(preflight(list(TASKS.values()), demo))
    real = replace(TASKS["MSVD"], queries=670)
    (check,) = preflight([real], demo)
    assert check.problems == ["4 rows where the protocol has 670"]
    assert preflight([real], demo, allow_partial=True)[0].problems == []


def test_preflight_finds_missing_media(demo: Annotations) -> None:
    picture = next((demo.data / "image-tasks" / "demo").glob("red-circle.png"))
    kept = picture.read_bytes()
    picture.unlink()
    try:
        (check,) = preflight([TASKS["ImageNet-1K"]], demo)
        assert "1 of 5 media files are missing, such as" in check.problems[0]
    finally:
        picture.write_bytes(kept)


def test_a_folder_with_pages_of_another_revision_is_refused(demo: Annotations) -> None:
    """Labels off by one: every name is there, with the next page's picture."""
    task: Task = replace(TASKS["ViDoSeek-page"], roots=("old-pages",))
    folder = demo.data / "old-pages"
    folder.mkdir()
    rows = list(demo.table(task.source, "corpus"))
    try:
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            (folder / f"{row['corpus-id']}.png").write_bytes(other["image"]["bytes"])
        (check,) = preflight([task], demo)
        assert "pages of another revision than VLM2Vec/ViDoSeek-page-fixed" in check.problems[0]
        assert check.commands[0].startswith(f"rm -r {folder}")
        for row in rows:
            (folder / f"{row['corpus-id']}.png").write_bytes(row["image"]["bytes"])
        assert preflight([task], demo)[0].problems == []
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
