"""`tools/gpu-check`: rehearsed whole on a CPU, and what becomes of failures on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tools.gpu_check import report, training
from tools.gpu_check.__main__ import NAMES, supervise
from tools.gpu_check.findings import Findings, NotRun
from tools.gpu_check.place import Place
from tools.gpu_check.stages import STAGES
from ume_qwen.testing.checkpoints import SIZES, published_config

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-gpu" / "bin" / "python"
ABOUT = {"stage": "disc", "command": "tools/gpu-check", "size": "nano", "date": "2026-01-01"}
# What a CPU without the libraries that the borrowed machine lacks cannot check, and why.
NOT_RUN = {
    "import chroma_ume": "chromadb is not installed",
    "import haystack_ume": "haystack is not installed",
    "import langchain_ume": "langchain_core is not installed",
    "import mteb_ume": "mteb is not installed",
    "tensorrt": "tensorrt is not installed",
    "a CUDA graph": "only a CUDA device has graphs",
    "the recipe with its processor": "torchvision is not installed",
    "sentence-transformers": "torchvision is not installed",
    "mteb's wrapper": "mteb is not installed",
}


def found(path: Path, seconds: float = 60) -> Findings:
    return Findings(path, ABOUT, seconds, lambda line: None)


@pytest.mark.skipif(not PYTHON.exists(), reason="not run: tools/setup gpu was not")
def test_the_whole_check_runs_on_a_cpu_with_nothing_but_the_borrowed_machines_libraries(
    tmp_path: Path,
) -> None:
    for absent in ("lancedb", "av", "torchvision", "ume_core"):
        code = f"import importlib.util as u; raise SystemExit(u.find_spec({absent!r}) is not None)"
        assert subprocess.run([PYTHON, "-c", code], check=False).returncode == 0, absent
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": str(PYTHON), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["tools/gpu-check", "--device", "cpu", "--size", "nano", "--out", out],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = report.load(out)
    assert tuple(stages) == NAMES == tuple(STAGES)
    assert all(stage["finished"] for stage in stages.values())
    checks = {n: c for stage in stages.values() for n, c in stage["checks"].items()}
    assert {n: c["reason"] for n, c in checks.items() if c["status"] == "not run"} == NOT_RUN
    machine = report.value(stages, "environment", "machine")
    assert (machine["torch"], machine["transformers"]) == ("2.11.0", "5.17.0")
    names = {path.name for path in out.iterdir()}
    assert names == {*(f"{n}.json" for n in NAMES), "gpu-check.log", "gpu-cpu.md", "gpu-cpu.png"}
    text = (out / "gpu-cpu.md").read_text()
    assert "nothing here says anything of a GPU" in text
    assert all(f"| {name} | not run | {reason} |" in text for name, reason in NOT_RUN.items())


def test_a_failing_check_is_noted_and_the_next_one_made(tmp_path: Path) -> None:
    path = tmp_path / "disc.json"
    findings = found(path)

    def absent() -> None:
        raise NotRun("mteb is not installed")

    assert findings.check("one", lambda: 1 / 0) is None
    assert findings.check("two", absent) is None
    assert findings.check("three", lambda: {"ms": 2.5}) == {"ms": 2.5}
    content = json.loads(path.read_text())  # before the stage is finished
    assert not content["finished"]
    checks = content["checks"]
    assert [c["status"] for c in checks.values()] == ["failed", "not run", "ok"]
    assert checks["one"]["reason"] == "ZeroDivisionError: division by zero"
    assert checks["two"]["reason"] == "mteb is not installed"
    assert checks["three"]["values"] == {"ms": 2.5}


def test_no_check_begins_after_the_stages_time(tmp_path: Path) -> None:
    findings = found(tmp_path / "disc.json", seconds=0)
    findings.check("late", lambda: pytest.fail("it was made"))
    assert findings.checks["late"]["status"] == "not run"


def crash(path: Path) -> None:
    found(path).check("made", lambda: {"ms": 1})
    os._exit(7)


def hang(path: Path) -> None:
    found(path).check("made", lambda: {"ms": 1})
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "said"),
    [(crash, "its process ended with status 7"), (hang, "it was ended after 2 s")],
)
def test_a_stage_that_crashes_or_hangs_keeps_what_it_found(
    tmp_path: Path, work: Any, said: str
) -> None:
    path = tmp_path / "disc.json"
    process = multiprocessing.get_context("fork").Process(target=work, args=(path,))
    assert supervise(process, path, ABOUT, seconds=2) is True
    text = report.markdown(report.load(tmp_path), "cpu", {}, None)
    assert said in text and "| made | ok | ms 1 |" in text
    assert "## gen\n\nNot run." in text


def test_a_machine_without_a_gpu_is_said_to_have_none(tmp_path: Path) -> None:
    if Place("cuda", True, tmp_path).available:
        pytest.skip("this machine has a GPU")
    findings = found(tmp_path / "training.json")
    training.run(Place("cuda", True, tmp_path), findings)
    (check,) = findings.checks.values()
    assert (check["status"], check["reason"]) == ("not run", "this machine has no CUDA device")


# Of Qwen/Qwen2-VL-2B-Instruct and -7B-Instruct, as the hub counts them.
@pytest.mark.parametrize(("size", "count"), [("2b", 2_208_985_600), ("7b", 8_291_375_616)])
def test_a_random_checkpoint_has_the_published_shape(size: str, count: int) -> None:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    assert size in SIZES
    with torch.device("meta"):
        config = Qwen2VLConfig(**deepcopy(published_config("qwen2_vl", size)))
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == count
