"""One input at a time through `embed(..., on_error="record")`, and what may not happen.

An input may give a vector or one of our errors. Findings are: an exception of anybody else, an
error that wraps one, a vector that is none, more than `MOST_SECONDS`, a resident set that grows by
more than `MOST_BYTES`.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ume_r1
from tools.fuzz import seeds
from tools.fuzz.messages import message
from tools.fuzz.mutate import spoil
from tools.fuzz.texts import text
from ume_core import Embedder, Image, Policy, Text, UmeError, Video

FAMILIES = ("pictures", "clips", "texts", "messages")
MOST_SECONDS = 10.0
_WRAPS = "reading the item raised"  # how ume_core's record names an exception that is not ours
MOST_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Verdict:
    """What became of one input.

    Attributes:
        family, number: with the seed, which input it was.
        kind: its format.
        outcome: `ok`, or the class of our error.
        finding: what may not happen; empty if nothing of it did.
        seconds: it took.
        megabytes: by which the resident set grew meanwhile.
    """

    family: str
    number: int
    kind: str
    outcome: str
    finding: str
    seconds: float
    megabytes: int


class Inputs:
    """The inputs of a run: the same for the same seed, in any order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pictures = list(seeds.pictures())
        self._clips = list(seeds.clips())

    def make(self, family: str, number: int) -> tuple[str, Any]:
        """(kind, item) of one input."""
        rng = np.random.default_rng([self._seed, FAMILIES.index(family), number])
        if family == "texts":
            value = text(rng)
            return "text", (value if number % 2 else [Text(value)])
        if family == "messages":
            return "message", message(rng)
        if family == "pictures":
            kind, data = _spoilt(self._pictures, number, rng)
            return kind, Image(data)
        kind, data = _spoilt(self._clips, number, rng)
        return kind, Video(data)


def _spoilt(
    sound: list[tuple[str, bytes]], number: int, rng: np.random.Generator
) -> tuple[str, bytes]:
    kind, data = sound[number % len(sound)]
    return kind, spoil(data, [other for _, other in sound], rng)


def engine(folder: Path) -> Embedder:
    """ume-nano, which may read `folder` and no URL."""
    return ume_r1.load("ume-nano", device="cpu", policy=Policy(roots=(folder,), urls=False))


def judge(model: Embedder, inputs: Inputs, family: str, number: int) -> Verdict:
    """Embed one input."""
    kind, item = inputs.make(family, number)
    _reset_peak()
    began, before = time.monotonic(), _peak()
    outcome, finding = _embed(model, item)
    seconds, growth = time.monotonic() - began, _peak() - before
    if not finding and seconds > MOST_SECONDS:
        finding = f"took {seconds:.1f} s"
    if not finding and growth > MOST_BYTES:
        finding = f"took {growth >> 20} MiB"
    return Verdict(family, number, kind, outcome, finding, round(seconds, 3), growth >> 20)


def _embed(model: Embedder, item: Any) -> tuple[str, str]:
    try:
        result = model.embed([item], on_error="record")
    except UmeError as error:  # of the whole call, such as a conversation that is no list of items
        return type(error).__name__, ""
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "foreign", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    record, vector = result.records[0], result.vectors("disc")[0]
    if record.status == "failed":
        reason = record.reason or ""
        return "refused", reason[:300] if _WRAPS in reason or not reason else ""
    if not abs(float(np.linalg.norm(vector)) - 1) <= 1e-3:  # NaN too
        return "ok", f"a vector of length {np.linalg.norm(vector)}"
    return "ok" + (", with a warning" if record.warnings else ""), ""


def _reset_peak() -> None:
    """Linux: let the peak of the resident set begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The largest resident set since then, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
