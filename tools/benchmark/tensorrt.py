"""Build, parity and latency of TensorRT engines; see tools/check-tensorrt."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.benchmark import report
from tools.benchmark.duel import Contestant, duel, plot
from tools.benchmark.exported import export
from ume_core.loading import locate
from ume_qwen.devices import has_gpu
from ume_qwen.exported.environment import find_python
from ume_tensorrt.names import FOLDER

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
REPORTS = Path(__file__).resolve().parent / "reports"
INSTALL = "-m pip install tensorrt-cu13==10.16.1.11 cuda-bindings"
NOT_RUN = 3


def main() -> int:
    """Returns 0 when engines were built, passed and were measured; 3 when nothing could run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="ume-nano")
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument("--profiles", default="low-latency")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    python = str(find_python())
    for reason in _missing(python):
        print(f"TensorRT was not checked: {reason}", file=sys.stderr)
        return NOT_RUN
    location, alias = locate(args.model)
    name = alias.name if alias else Path(args.model).name
    exported = CACHE / f"{name}-onnx-{args.precision}"
    build = ["tensorrt", str(exported), "--options", json.dumps({"profiles": args.profiles})]
    try:
        export(Path(location), exported, args.precision, "--name", name)
        subprocess.run([python, "-m", "ume_export", *build], check=True)
    except subprocess.CalledProcessError:  # it said why
        return 1
    built = json.loads((exported / FOLDER / "engines.json").read_text("utf-8"))
    found = {
        "model": name, "precision": args.precision, "date": time.strftime("%Y-%m-%d"),
        "command": "tools/check-tensorrt " + " ".join(sys.argv[1:]),
        "gpu": built["device"], "tensorrt": built["tensorrt"], "torch": version("torch"),
        "profiles": built["profiles"], "seconds to build": built["seconds"],
        "parity": built["parity"], "rounds": args.rounds,
        "latency": _latency(Path(location), exported, args),
    }  # fmt: skip
    stem = REPORTS / f"tensorrt-{name}-{args.precision}"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1), "utf-8")
    stem.with_suffix(".md").write_text(markdown(found), "utf-8")
    plot(found["latency"], f"{name} {args.precision}, {built['device']['name']}",
         stem.with_suffix(".png"))  # fmt: skip
    print(markdown(found))
    return 0


def _missing(python: str) -> list[str]:
    """Why nothing can run here."""
    if not has_gpu():
        return ["this machine has no NVIDIA GPU"]
    for interpreter in (sys.executable, python):
        code = "import tensorrt, cuda.bindings.runtime; tensorrt.Builder"
        done = subprocess.run([interpreter, "-c", code], capture_output=True, check=False)
        if done.returncode:
            return [f"TensorRT cannot be loaded; run: {interpreter} {INSTALL}"]
    return []


def _latency(model: Path, exported: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All on the same GPU: torch twice (the control), ONNX Runtime's CUDA provider, TensorRT."""
    torch = {
        "device": "cuda", "dtype": "float32" if args.precision == "float32" else "bfloat16"
    }  # fmt: skip
    asked: list[tuple[str, Path, str, dict[str, Any]]] = [
        ("torch", model, "torch", torch),
        ("torch again", model, "torch", torch),
        ("tensorrt", exported, "tensorrt", {"device": "cuda"}),
        ("onnxruntime", exported, "onnxruntime", {"device": "cuda"}),
    ]
    contestants: list[Contestant] = []
    try:
        for entry in asked:
            try:
                contestants.append(Contestant(*entry))
            except RuntimeError as error:
                if entry[0] != "onnxruntime":  # without it the others are worth comparing
                    raise
                print(f"left out: {error}", file=sys.stderr)
        return duel(contestants, args.rounds, warm=10)
    finally:
        for contestant in contestants:
            contestant.close()


def markdown(found: dict[str, Any]) -> str:
    """The report."""
    parity, gpu = found["parity"], found["gpu"]
    lines = [
        f"# TensorRT: {found['model']}, {found['precision']}",
        "",
        f"{gpu['name']} ({gpu['capability']}); {found['date']}; TensorRT {found['tensorrt']}, "
        f"torch {found['torch']}. `{found['command']}`, {found['rounds']} interleaved rounds, each "
        "engine in its own process, new inputs every round.",
        "",
        f"Parity with ONNX Runtime's CPU on the same graphs: largest difference "
        f"{parity['max_difference']:.1e} (bound {parity['bound']:.0e}), least cosine "
        f"{parity['cosine']:.6f}; left out, since the profiles do not take them: "
        f"{', '.join(parity['left_out']) or 'nothing'}.",
        "",
        "Seconds to build: " + ", ".join(f"{k} {v}" for k, v in found["seconds to build"].items()),
        "",
        *report.table(found["latency"]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
