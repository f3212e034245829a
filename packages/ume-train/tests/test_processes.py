"""One and two processes learn the same: losses, gathered negatives, GradCache, rewards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ume_train.logs import read_log

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> tuple[Path, Path, str]:
    """The directories of one and of two processes, and what the latter said."""
    base = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    one = [sys.executable, SCRIPT, drawn, base / "one"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(port), SCRIPT, drawn, base / "two",
    ]  # fmt: skip
    single = subprocess.Popen(
        one, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    both = subprocess.run(two, env=environment, capture_output=True, text=True, check=False)
    said = both.stdout + both.stderr
    assert both.returncode == 0, said
    output, _ = single.communicate()
    assert single.returncode == 0, output
    return base / "one", base / "two", said


def test_sft_is_the_same(runs: tuple[Path, Path, str]) -> None:
    one, two = (read_log(r / "sft") for r in runs[:2])
    assert len(one) == len(two) == 2
    for ours, theirs in zip(two, one, strict=True):
        for name in ("disc", "gen", "align", "ce", "loss", "grad_norm", "accuracy_disc"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), name


def test_hard_negatives_of_other_processes_are_negatives(runs: tuple[Path, Path, str]) -> None:
    one, two = (json.loads((r / "hard-negatives.json").read_text()) for r in runs[:2])
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for ours, theirs in zip(two["gradients"], one["gradients"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert one["crossed"] > 2 * one["loss"]  # which rows in a wrong order would give


def test_grpo_is_the_same(runs: tuple[Path, Path, str]) -> None:
    """Rewards compare rollouts of all processes, each prompt's own whatever the process."""
    one, two = (read_log(r / "grpo") for r in runs[:2])
    assert len(one) == len(two) == 2
    for ours, theirs in zip(two, one, strict=True):
        for name in ("reward_embedding", "reward_format", "length", "spread", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name
        # Advantages sum to 0 in a group, so that little is left but rounding.
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
    assert all(row["clip_share"] == 0 for row in one)


def test_spread_weights_get_the_gradients_of_whole_ones(runs: tuple[Path, Path, str]) -> None:
    assert "spread gradients are whole ones" in runs[2]
