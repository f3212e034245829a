"""`ume train` as people run it: both tiny stages, kill -9, Ctrl-C, filter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ume_core
from ume_r1.cli import main
from ume_train.commands.stage import open_source, with_drawn
from ume_train.config import read_config
from ume_train.filtering import moved
from ume_train.logs import read_log

SHORT = ["--set", "run.device=cpu", "--set", "model.precision=float32",
         "--set", "evaluate.pairs=8"]  # fmt: skip


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the preset `tiny`."""
    out = tmp_path_factory.mktemp("tiny") / "sft-tiny"
    assert main(["train", "sft", "tiny", "--out", str(out), "--set", "run.steps=6",
                 "--set", "run.save_every=3", "--set", "data.drawn=48",
                 "--set", "batch.pairs=6", *SHORT]) == 0  # fmt: skip
    return out


def test_grpo_goes_on_from_sft(sft: Path, tmp_path: Path) -> None:
    out = tmp_path / "grpo"
    assert main(["train", "grpo", "tiny", "--out", str(out), "--set", "run.steps=2",
                 "--set", "run.save_every=2", "--set", f"model.start={sft / 'model'}",
                 "--set", "data.drawn=32", "--set", "loss.iterations=2", *SHORT]) == 0  # fmt: skip
    first, second = read_log(out)
    assert first["engine_gap"] < 1e-4 and first["clip_share"] == 0 and first["kl"] < 1e-6
    assert second["reward"] == first["reward"]  # a second update on the same rollouts
    # What tells a better vector from a learned form, and groups that teach nothing.
    parts = first["reward_embedding"] + first["reward_format"]
    assert first["reward"] == pytest.approx(parts, abs=1e-5)  # six digits are logged
    assert 0 <= first["dead_groups"] <= 1 and first["spread"] > 0 and first["missing_gen"] == 0
    assert (out / "samples.txt").read_text().startswith("step 1\n")
    assert "<svg" in (out / "report.html").read_text("utf-8")
    vectors = ume_core.load(str(out / "model")).embed(["red star left"], mode="both")
    assert vectors.gen is not None
    assert [r["step"] for r in read_log(out, "held-out")] == [2] and (out / "best").is_dir()
    assert not read_log(out, "warnings")


def test_a_policy_that_leaves_its_start_is_warned_of(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps(count: int) -> int:
        return main(["train", "grpo", "tiny", "--out", str(tmp_path), "--set", f"run.steps={count}",
                     "--set", f"model.start={nano}", "--set", "data.drawn=16",
                     "--set", "batch.pairs_per_reward=2", "--set", "rollouts.generations=2",
                     "--set", "loss.kl_alarm=1e-9", "--set", "optimizer.lr=1e-3",
                     "--set", "optimizer.warmup=0", "--set", "evaluate.every=0",
                     *SHORT])  # fmt: skip

    assert steps(2) == 0
    first, second = read_log(tmp_path)
    assert first["kl"] < 1e-9 < second["kl"]
    assert [(r["step"], r["name"]) for r in read_log(tmp_path, "warnings")] == [(2, "KL")]
    assert "WARNING, step 2: the KL divergence to the start is" in capsys.readouterr().err
    rows = [{**first, "length": first["length"] / 3}, second]  # as if answers had grown since
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert steps(3) == 0
    found = [r for r in read_log(tmp_path, "warnings") if r["name"] == "length"]
    assert [r["step"] for r in found] == [3] and "read samples.txt" in found[0]["text"]


def test_the_best_model_on_held_out_pairs_is_kept(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    # The first step has rate 0; the second ruins the model.
    command = ["train", "sft", "tiny", "--out", str(out), "--set", "run.steps=2",
               "--set", "data.drawn=24", "--set", "batch.pairs=4", "--set", "data.order=shuffled",
               "--set", "optimizer.name=adamw", "--set", "optimizer.lr=0.3",
               "--set", "optimizer.schedule=linear", "--set", "optimizer.warmup=0.6",
               "--set", "evaluate.every=1", *SHORT]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().err
    first, second = read_log(out, "held-out")
    assert second["recall"] < first["recall"] == (first["disc"] + first["gen"]) / 2
    assert (first["best"], second["best"]) == (True, False)
    best, start = (load_file(p / "model.safetensors") for p in (out / "best", nano))
    assert all(torch.equal(best[name].float(), start[name].float()) for name in start)
    assert f"best so far at step 1 ({first['recall']:.1%}): {out / 'best'}" in said
    assert "Best on held-out pairs: step 1" in (out / "report.html").read_text("utf-8")
    config: Any = with_drawn("sft", read_config("sft", "tiny", command[6::2]), out)
    pairs = open_source("sft", config, out).held_out()
    assert len(pairs) == 8
    vectors = ume_core.load(str(nano)).embed([e.item for p in pairs for e in p]).vectors("disc")
    nearest = (vectors[::2] @ vectors[1::2].T).argmax(axis=1)
    hits = [pairs[n][1].item == target.item for n, (_, target) in zip(nearest, pairs, strict=True)]
    assert first["disc"] == sum(hits) / 8
    (out / "held-out.jsonl").write_text(json.dumps(first) + "\n")  # as if killed before the second
    assert main(command) == 0
    assert read_log(out, "held-out") == [first, second]


def test_a_dry_run_checks_and_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft", "published-2b", "--dry-run", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "UME-sft-train/UME-sft-train.json not there" in said
    assert "5,000 of 1,024 pairs (4 x 256)" in said
    assert "2,208,985,600" in said  # the published 2B's parameters
    assert main(["train", "sft", "tiny", "--dry-run", "--out", str(tmp_path)]) == 0
    assert "216 sound pairs of 3 data sets, 24 more held out" in capsys.readouterr().out
    assert not (tmp_path / "model").exists()


def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "grpo", "tiny"]) == 2
    assert "ume train sft tiny makes it" in capsys.readouterr().err
    assert not Path("runs").exists()  # it was said before any data were drawn or read
    assert main(["train", "sft", "tiny", "--set", "model.start=./none"]) == 2
    assert "no directory ./none" in capsys.readouterr().err
    assert main(["train", "sft", "nano"]) == 2
    assert "there is no file train.json" in capsys.readouterr().err


def _arguments(out: Path) -> list[str]:
    return ["train", "sft", "tiny", "--out", str(out), "--set", "run.steps=6",
            "--set", "run.save_every=1", "--set", "data.drawn=48", "--set", "batch.pairs=6",
            *SHORT]  # fmt: skip


def _when(out: Path, steps: int, act: Callable[[], None]) -> None:
    """Act once so many steps are logged."""
    for _ in range(2400):
        if len(read_log(out)) >= steps:
            act()
            return
        time.sleep(0.05)


def test_a_run_that_was_stopped_takes_the_same_steps(
    sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it goes, then interrupted by Ctrl-C, then left to end."""
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "ume_r1", *_arguments(out)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _when(out, 2, process.kill)
    assert process.wait() == -signal.SIGKILL
    interrupt = threading.Thread(
        target=_when, args=(out, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    )
    interrupt.start()
    assert main(_arguments(out)) == 0
    interrupt.join()
    said = capsys.readouterr().err
    assert "goes on at step" in said and "the same command goes on" in said
    assert not (len(read_log(out)) < 4 or len(read_log(out)) == 6)
    assert main(_arguments(out)) == 0
    whole = [{**r, "seconds": 0} for r in read_log(sft)]
    assert [{**r, "seconds": 0} for r in read_log(out)] == whole
    assert read_log(out, "held-out") == read_log(sft, "held-out")
    weights, expected = (load_file(r / "model" / "model.safetensors") for r in (out, sft))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_filter_keeps_pairs_whose_thinking_helps(drawn: Path, tmp_path: Path, nano: Path) -> None:
    output = tmp_path / "kept.json"
    command = ["train", "filter", str(drawn / "sft.json"), "--media", str(drawn / "media"),
               "--model", str(nano), "--output", str(output), "--group", "16"]  # fmt: skip
    assert main(command) == 0
    records: list[Any] = json.loads((drawn / "sft.json").read_text())
    kept: list[Any] = json.loads(output.read_text())
    assert 0 < len(kept) < len(records)
    assert all(record in records for record in kept)
    assert "left out" in output.with_suffix(".html").read_text("utf-8")
    (verdicts,) = (tmp_path / "kept.json.work").glob("verdicts-*.jsonl")
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert len(lines) == len(records)
    for line in lines:
        helps = (line["query_positive"] >= line["query_negative"]
                 and line["target_positive"] >= line["target_negative"])  # fmt: skip
        assert line["kept"] == helps
    before = verdicts.stat().st_mtime_ns
    assert main(command) == 0  # all was judged
    assert verdicts.stat().st_mtime_ns == before and json.loads(output.read_text()) == kept


def test_how_far_thinking_moves_by_hand() -> None:
    others = torch.eye(3)
    without = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    full = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    positive, negative = moved(full, without, others, hard=1)
    torch.testing.assert_close(positive, torch.tensor([1 - 0.5**0.5, -1.0, 0.0]))
    # the first's nearest without thinking is the second, from which it moves away
    torch.testing.assert_close(negative, torch.tensor([-(0.5**0.5), 1.0, 0.0]))
