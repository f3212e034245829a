"""Shipped FSDP2 and ZeRO-3 configurations on two CPU processes: same losses, resume, save whole.

ZeRO-3 is tested where deepspeed is installed: `tools/test` builds it in `.venv-export`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ume_r1.cli import main
from ume_train.logs import read_log

SCRIPT = Path(__file__).with_name("spread_weights.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
ON_CPUS = {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}  # DeepSpeed, without a GPU
PARTS = {"fsdp2": "pytorch_model_fsdp_0/*.distcp", "zero3": "pytorch_model/*optim_states.pt"}


def launched(configuration: Path, *arguments: Path) -> subprocess.Popen[bytes]:
    """The script through accelerate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (arguments[-1] / "said.txt").open("ab")
    more = ON_CPUS if configuration.stem == "zero3" else {}
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration,
         "--main_process_port", str(port), *arguments],
        env=ENVIRONMENT | more, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module", params=PARTS)
def configuration(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ume train scale fsdp2` or `zero3`, for two processes on a CPU."""
    import ume_train

    name = str(request.param)
    if name == "zero3":
        pytest.importorskip("deepspeed", reason="ZeRO-3 is tested in .venv-export")
    shipped = Path(ume_train.__file__).parent / "scale" / f"{name}.yaml"
    settings = yaml.safe_load(shipped.read_text("utf-8"))
    here: dict[str, object] = {"num_processes": 2, "num_machines": 1, "mixed_precision": "no"}
    here["use_cpu"] = name == "fsdp2"
    path = tmp_path_factory.mktemp("scale") / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**settings, **here}), "utf-8")
    return path


def kill(launcher: subprocess.Popen[bytes]) -> None:
    """`kill -9` of a launcher and of its processes, which have sessions of their own."""
    everybody = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    for process in everybody:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.wait()
    psutil.wait_procs(everybody)


def test_weights_spread_over_processes_learn_the_same_and_go_on(
    tmp_path: Path, drawn: Path, configuration: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    single = subprocess.Popen([sys.executable, SCRIPT, drawn, one], env=ENVIRONMENT)
    killed = launched(configuration, SCRIPT, drawn, two)
    while killed.poll() is None and len(read_log(two / "sft")) < 2:
        time.sleep(0.05)
    kill(killed)
    assert len(read_log(two / "sft")) >= 2, (two / "said.txt").read_text()
    (saved, *_) = sorted((two / "sft" / "checkpoints").glob("step-??????"))[::-1]
    parts = [p.stat().st_size for p in saved.glob(PARTS[configuration.stem])]
    whole = sum(t.nbytes for t in load_file(two / "sft" / "model" / "model.safetensors").values())
    # Each process wrote its own: weights, or (ZeRO-3) three float32 numbers a weight.
    most = whole if configuration.stem == "fsdp2" else 3 * whole
    assert len(parts) == 2 and max(parts) < 0.8 * most
    assert launched(configuration, SCRIPT, drawn, two).wait() == 0, (two / "said.txt").read_text()
    assert single.wait() == 0
    rows, expected = (read_log(r / "sft") for r in (two, one))
    assert [r["step"] for r in rows] == [1, 2, 3, 4] == [r["step"] for r in expected]
    for ours, theirs in zip(rows, expected, strict=True):
        for name in ("disc", "gen", "align", "ce", "loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    weights, wanted = (load_file(r / "sft" / "model" / "model.safetensors") for r in (two, one))
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted[name], atol=2e-4, rtol=0)
    (row,) = read_log(two / "grpo")  # rollouts by a bfloat16 copy of the spread weights
    assert row["engine_gap"] < 0.1 and row["clip_share"] == 0


def test_a_configuration_that_a_cpu_does_not_obey_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    command = ["train", "sft", "tiny", "--out", str(tmp_path), "--set", "run.device=cpu"]
    assert main(command) == 2
    assert "spreads weights with FSDP over GPUs alone" in capsys.readouterr().err
