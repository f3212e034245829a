"""The export against ume-torch, over inputs it was not traced with.

The gate is the largest difference of any number, never the cosine alone: patches rotated by one
place still score a cosine above 0.99 (the negative controls are tests).
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ume_core.items import Image, Item, ItemLike, Text, Video
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_export.bfloat16 import on_cpu, rounded
from ume_torch.engine import TorchEmbedder

# Largest difference allowed of unit vectors. float32 is rounding, and so is bfloat16, whose graphs
# are checked in float32 arithmetic (`ume_export.bfloat16`); float16 and int8 are what such
# arithmetic costs.
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-5, "float16": 5e-3, "int8": 5e-2}


def samples() -> dict[str, list[ItemLike]]:
    """Inputs by case: lengths, sizes and counts that the trace did not have."""
    rng = np.random.default_rng(11)

    def picture(h: int, w: int) -> Any:
        return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)

    return {
        "text": ["a", "a red apple on a table", "word " * 40, Item((Text("x"),), "Find: ")],
        "image": [Image(picture(h, w)) for h, w in ((56, 56), (84, 140), (200, 90), (56, 84))],
        "image and text": [{"image": picture(112, 56), "text": "what is it?"}],
        "several images": [
            {"images": [picture(56, 112), picture(84, 84), picture(56, 112)], "text": "which?"}
        ],
        "flat image": [
            Image(np.full((84, 112, 3), shade, dtype=np.uint8)) for shade in (0, 128, 255)
        ],
        "video": [
            Video([picture(84, 84) for _ in range(4)], max_pixels=84 * 84, min_pixels=56 * 56),
            {"video": [picture(60, 90) for _ in range(6)], "text": "then?", "max_pixels": 9000,
             "min_pixels": 3136},
        ],
        "one batch": [
            "short", Image(picture(84, 84)), "a longer text than the others " * 3,
            {"images": [picture(56, 56), picture(140, 84)], "text": "both"},
            Image(picture(84, 84)),
        ],
    }  # fmt: skip


def check_parity(checkpoint: Path, exported: Path, precision: str) -> dict[str, Any]:
    """Compare, in float32 on the torch side; the manifest's `parity`."""
    half = precision == "bfloat16"
    with rounded(checkpoint, exported) if half else nullcontext(checkpoint) as weights:
        reference = TorchEmbedder(weights, LoadOptions(dtype="float32", device="cpu"))
    wanted = {name: reference.embed(items).vectors("disc") for name, items in samples().items()}
    del reference  # a 2B model is not held twice
    cases: dict[str, dict[str, float]] = {}
    with on_cpu(exported, precision) as ours:
        for name, items in samples().items():
            cases[name] = compare(wanted[name], ours.embed(items).vectors("disc"))
    arithmetic = {"arithmetic": "float32"} if half else {}
    return summary(cases, BOUNDS[precision]) | arithmetic


def summary(cases: dict[str, dict[str, float]], bound: float) -> dict[str, Any]:
    """A manifest's `parity`: whether the worst case is within the bound, and the figures."""
    worst = float(np.max([c["max_difference"] for c in cases.values()]))  # NaN stays NaN
    return {
        "passed": worst <= bound,
        "bound": bound,
        "max_difference": worst,
        "cosine": min(c["cosine"] for c in cases.values()),
        "cases": cases,
    }


def compare(expected: Vectors, found: Vectors) -> dict[str, float]:
    """Largest difference of any number and least cosine of unit vectors."""
    return {
        "max_difference": float(np.abs(expected - found).max()),
        "cosine": float((expected * found).sum(axis=1).min()),
    }
