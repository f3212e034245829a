"""The exported encoder on ONNX Runtime beside ume-torch, with torch against itself as control."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmark.duel import Contestant, duel
from ume_core.errors import CheckpointError
from ume_core.qwen.checkpoint import find_checkpoint
from ume_core.qwen.digests import files_digest
from ume_core.qwen.manifest import Manifest
from ume_onnxruntime.export_command import find_python

ROUNDS = 21
ROOT = Path(__file__).resolve().parents[2]


def export(directory: Path, target: Path, precision: str, *options: str) -> dict[str, Any]:
    """Export, unless one of this very checkpoint by this very code is there; how large it is.

    Raises:
        CalledProcessError: `ume export` failed; it said why.
    """
    if not _is_of(directory, target):
        shutil.rmtree(target, ignore_errors=True)
        command = [str(find_python()), "-m", "ume_export", str(directory), str(target)]
        subprocess.run([*command, "--precision", precision, *options], check=True)
        (target / "code").write_text(_code(), "utf-8")
    size = sum(f.stat().st_size for f in (target / "onnx").iterdir())
    return {"precision": precision, "megabytes": size / 1e6}


def _is_of(directory: Path, target: Path) -> bool:
    try:
        same = Manifest.read(target).weights == find_checkpoint(directory).digest()
        return same and (target / "code").read_text("utf-8") == _code()
    except (CheckpointError, OSError):  # none, or of another version
        return False


def _code() -> str:
    """Digest of the code that decides what graphs are made."""
    places = (ROOT / "export" / "src", ROOT / "packages" / "ume-core" / "src" / "ume_core" / "qwen")
    return files_digest(sorted(path for place in places for path in place.rglob("*.py")))


def measure(directory: Path, cache: Path, size: str) -> dict[str, Any]:
    """Ratios per case, and the time from import to the first vector."""
    targets = {p: cache / f"{size}-onnx-{p}" for p in ("float32", "int8")}
    sizes = [export(directory, target, p) for p, target in targets.items()]
    torch = {"dtype": "float32", "device": "cpu"}
    contestants = [
        Contestant("torch", directory, "torch", torch),
        Contestant("torch again", directory, "torch", torch),
        Contestant("onnxruntime", targets["float32"], "onnxruntime", {"device": "cpu"}),
        Contestant("onnxruntime int8", targets["int8"], "onnxruntime", {"device": "cpu"}),
    ]
    try:
        rows = duel(contestants, ROUNDS)
    finally:
        for contestant in contestants:
            contestant.close()
    return {"exports": sizes, "onnxruntime": rows, "start": _starts(directory, targets["float32"])}


def _starts(directory: Path, target: Path) -> list[dict[str, Any]]:
    """Seconds from the start of a fresh interpreter to its first vector, in turns."""
    code = "import ume_core; ume_core.load({!r}, engine={!r}).embed(['a red apple'])"
    runs = {"torch": (str(directory), "torch"), "onnxruntime": (str(target), "onnxruntime")}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(5):
        for name, arguments in runs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code.format(*arguments)], check=True)
            times[name].append(time.perf_counter() - began)
    return [
        {"engine": name, "median seconds": float(np.median(s)), "low": min(s), "high": max(s)}
        for name, s in times.items()
    ]
