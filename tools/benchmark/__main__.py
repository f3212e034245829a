"""The benchmark's command line; see tools/bench."""

from __future__ import annotations

import argparse
import fcntl
import gc
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tools.benchmark import cold, duel, exported, extras, report
from tools.benchmark.cases import ROWS
from tools.benchmark.flops import matmul_rate, read_rate
from tools.benchmark.race import Field, checkpoint, race, where_time_goes
from tools.benchmark.vllm import PYTHON
from ume_torch.checkpoint import DTYPES

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
REPORTS = Path(__file__).resolve().parent / "reports"
CASES = ("texts", "images", "mixed", "video", "gen", "sampling")


def main() -> int:
    """Run the cases and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2b", choices=("nano", "small", "2b"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default=",".join((*CASES, "extras")), help="also: onnx, vllm")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--full", action="store_true", help="no smaller inputs for the 2B shape on a CPU: hours"
    )
    parser.add_argument("--cold", action="store_true", help="cold starts, and nothing else")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None)
    args = parser.parse_args()
    lock = (ROOT / ".cache").joinpath("bench.lock")
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another benchmark is running on this machine", file=sys.stderr)
            return 2
        return _cold(args) if args.cold else _run(args)


def _cold(args: argparse.Namespace) -> int:
    found: dict[str, Any] = {
        "rounds": args.rounds, "command": "tools/bench --cold", "date": time.strftime("%Y-%m-%d"),
        "hardware": _hardware("cpu"), "versions": _versions(), "load": cold.load_average(),
        **cold.measure(args.rounds),
    }  # fmt: skip
    stem = REPORTS / "cold-cpu"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1), "utf-8")
    stem.with_suffix(".md").write_text(cold.markdown(found), "utf-8")
    print(cold.markdown(found))
    return 0


def _run(args: argparse.Namespace) -> int:
    wanted = args.cases.split(",")
    usual = "bfloat16" if args.size == "2b" else "float32"
    dtype = args.dtype or usual
    began = time.time()
    others = wanted in (["onnx"], ["vllm"])
    if wanted == ["onnx"]:
        args.rounds = exported.ROUNDS
    full = args.full or args.size != "2b" or args.device != "cpu"
    disc = not {"gen", "sampling"}.issuperset(wanted)
    field = None if others else Field.load(CACHE, args.size, dtype, args.device, full, disc=disc)
    found: dict[str, Any] = {
        "size": args.size, "dtype": dtype, "device": args.device, "rounds": args.rounds,
        "command": "tools/bench " + " ".join(sys.argv[1:]), "date": time.strftime("%Y-%m-%d"),
        "hardware": _hardware(args.device), "versions": _versions(),
        "matmul_flops": matmul_rate(args.device, DTYPES[dtype]),
        "read_bytes": read_rate(args.device),
    }  # fmt: skip
    # ume-nano bounds a video's pixels by its own limits, which plain processors do not know.
    cases = [c for c in CASES if c in wanted and (c, args.size) != ("video", "nano")]
    found["cases"] = race(field, cases, args.rounds) if field is not None else {}
    found["extras"] = extras.measure(field) if field is not None and "extras" in wanted else {}
    if wanted == ["vllm"]:
        found["cases"], found["extras"] = _beside_vllm(args, dtype, full)
    if "onnx" in wanted:
        found["extras"] |= exported.measure(checkpoint(CACHE, args.size, dtype), CACHE, args.size)
    found["seconds"] = round(time.time() - began)
    REPORTS.mkdir(exist_ok=True)
    name = [args.size, torch.device(args.device).type]
    name += wanted * others + [dtype] * (dtype != usual) + ["full"] * args.full
    stem = REPORTS / "-".join(name)
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1), "utf-8")
    stem.with_suffix(".md").write_text(report.markdown(found), "utf-8")
    if found["cases"]:
        report.plot(found, stem.with_suffix(".png"))
    elif others:
        title = f"{args.size} {dtype}, {found['hardware']}, {found['date']}"
        duel.plot(found["extras"]["onnxruntime"], title, stem.with_suffix(".png"))
    print(report.markdown(found))
    return 0


def _beside_vllm(
    args: argparse.Namespace, dtype: str, full: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Disc, then gen: no more models in memory at once than a case needs. Races, and profiles."""
    if not PYTHON.exists():
        raise SystemExit("vLLM is not installed here: tools/setup vllm")
    races: dict[str, Any] = {}
    profiles: list[dict[str, Any]] = []
    for names, disc in ((("texts", "images"), True), (tuple(ROWS), False)):
        field = Field.load(
            CACHE, args.size, dtype, args.device, full, disc=disc, gen=not disc, vllm=True
        )
        races |= race(field, names, args.rounds)
        profiles += where_time_goes(field, names)
        assert field.vllm is not None
        field.vllm.close()
        del field
        gc.collect()
    return races, {"where the time goes, seconds": profiles}


def _hardware(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    flags = torch.backends.cpu.get_cpu_capability()
    # Those this process may use: `taskset -c 0 tools/bench` measures one.
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} core{'s' * (cores > 1)}, {flags}"


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "sentence-transformers", "mteb", "qwen-vl-utils")
    return {name: version(name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
