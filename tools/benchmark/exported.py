"""The exported encoder on ONNX Runtime beside ume-torch, with torch against itself as control."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import ume_core
from tools.benchmark.cases import Sample, image, text
from ume_core.loading import LoadOptions
from ume_onnxruntime.export_command import find_python

ROUNDS = 15


def export(directory: Path, target: Path, precision: str) -> dict[str, Any]:
    """Export once; how long it took and how large it is."""
    if not target.is_dir():
        command = [str(find_python()), "-m", "ume_export", str(directory), str(target)]
        began = time.monotonic()
        subprocess.run([*command, "--precision", precision], check=True)
        print(f"exported in {time.monotonic() - began:.0f} s", file=sys.stderr)
    size = sum(f.stat().st_size for f in (target / "onnx").iterdir())
    return {"precision": precision, "megabytes": size / 1e6}


def measure(directory: Path, cache: Path, size: str) -> dict[str, Any]:
    """Ratios per case, and the time from import to the first vector."""
    targets = {p: cache / f"{size}-onnx-{p}" for p in ("float32", "int8")}
    sizes = [export(directory, target, p) for p, target in targets.items()]
    options = LoadOptions(dtype="float32", device="cpu")
    models: dict[str, Any] = {
        "torch": ume_core.load(directory, engine="torch", options=options),
        "torch again": ume_core.load(directory, engine="torch", options=options),
        "onnxruntime": ume_core.load(targets["float32"]),
        "onnxruntime int8": ume_core.load(targets["int8"]),
    }
    return {
        "exports": sizes,
        "onnxruntime": [_case(name, models) for name in ("text", "8 texts", "image", "4 images")],
        "start": _starts(directory, targets["float32"]),
    }


def _samples(name: str, rng: np.random.Generator) -> list[Sample]:
    if name == "text":
        return [text(12, rng)]
    if name == "8 texts":
        return [text(int(n), rng) for n in rng.integers(5, 60, 8)]
    if name == "image":
        return [image(64, rng)]
    return [image(n, rng) for n in (64, 64, 144, 256)]


def _case(name: str, models: dict[str, Any]) -> dict[str, Any]:
    times: dict[str, list[float]] = {label: [] for label in models}
    cosines: list[float] = []
    for turn in range(ROUNDS + 2):
        items = [s.item for s in _samples(name, np.random.default_rng(turn))]
        labels = list(models)
        vectors: dict[str, Any] = {}
        for label in labels[turn % 4 :] + labels[: turn % 4]:
            began = time.perf_counter()
            vectors[label] = models[label].embed(items).disc
            if turn > 1:
                times[label].append(time.perf_counter() - began)
        cosines.append(float((vectors["torch"] * vectors["onnxruntime int8"]).sum(1).min()))
    row: dict[str, Any] = {"case": name}
    for label, seconds in times.items():
        row[f"{label} ms"] = 1000 * float(np.median(seconds))
    first = np.array(times["torch"])
    for label in list(models)[1:]:
        ratios = first / np.array(times[label])
        low, high = np.percentile(ratios, [25, 75])
        row[f"{label} speed"] = f"{np.median(ratios):.2f} ({low:.2f}-{high:.2f})"
    row["int8 least cosine"] = min(cosines)
    return row


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
