"""Engines against each other, each in a process of its own, one request at a time.

In one process their thread pools disturb each other: torch against itself then differed by up to
nine times. Here all others sleep while one computes, and torch runs twice, as the control.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmark.cases import Sample, image, text
from tools.benchmark.child import Child

CASES = ("text", "8 texts", "image", "4 images")
# Until the others' threads have stopped spinning.
_PAUSE = 0.25


class Contestant(Child):
    """An engine in a process.

    Attributes:
        ready: what it said when it had loaded.
    """

    def __init__(
        self, label: str, model: Path, engine: str, options: dict[str, Any] | None = None
    ) -> None:
        """Start it, and wait until it has loaded.

        Args:
            label: in the report.
            model: what it loads.
            engine: by which.
            options: `LoadOptions` fields.
        """
        given = json.dumps([str(model), engine, options or {}])
        super().__init__(label, [sys.executable, "-m", "tools.benchmark.duel", given])
        self.ready = self.answer()

    def run(self, case: str, turn: int) -> tuple[float, Any]:
        """Seconds of one `embed`, and its vectors."""
        found = self.ask(case, turn)
        return found["seconds"], np.array(found["vectors"], dtype=np.float32)


def duel(contestants: list[Contestant], rounds: int, warm: int = 3) -> list[dict[str, Any]]:
    """A row per case and engine: see `_case`."""
    return [row for case in CASES for row in _case(case, contestants, rounds, warm)]


def _case(case: str, contestants: list[Contestant], rounds: int, warm: int) -> list[dict[str, Any]]:
    """Milliseconds, and how many times faster than the first: median and quartiles."""
    times: dict[str, list[float]] = {c.label: [] for c in contestants}
    differences: dict[str, float] = {c.label: 0.0 for c in contestants}
    for turn in range(rounds + warm):
        start = turn % len(contestants)
        vectors: dict[str, Any] = {}
        for contestant in contestants[start:] + contestants[:start]:
            seconds, vectors[contestant.label] = contestant.run(case, turn)
            if turn >= warm:
                times[contestant.label].append(seconds)
            time.sleep(_PAUSE)
        first = vectors[contestants[0].label]
        for label, found in vectors.items():
            differences[label] = max(differences[label], float(np.abs(found - first).max()))
    base = np.array(times[contestants[0].label])
    rows: list[dict[str, Any]] = []
    for label, seconds in times.items():
        p50, p99 = (float(1000 * np.percentile(seconds, q)) for q in (50, 99))
        low, middle, high = np.percentile(base / np.array(seconds), [25, 50, 75])
        rows.append(
            {
                "case": case,
                "engine": label,
                "p50 ms": round(p50, 2),
                "p99 ms": round(p99, 2),
                "speed": round(float(middle), 2),
                "quartiles": f"{low:.2f}-{high:.2f}",
                "largest difference": f"{differences[label]:.0e}",
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Speed against the first engine, with quartiles; a panel per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CASES), figsize=(3 * len(CASES), 3.4), sharey=True)
    for axis, case in zip(axes, CASES, strict=True):
        shown = [row for row in rows if row["case"] == case]
        for place, row in enumerate(shown):
            low, high = (float(n) for n in row["quartiles"].split("-"))
            control = row["engine"].startswith("torch")
            axis.bar(place, row["speed"], color="0.65" if control else "tab:blue")
            axis.plot([place, place], [low, high], color="black", lw=1)
        axis.axhline(1, color="black", lw=0.6)
        axis.set_xticks(range(len(shown)), [row["engine"] for row in shown], fontsize=7,
                        rotation=40, ha="right")  # fmt: skip
        axis.set_title(case, fontsize=9)
    axes[0].set_ylabel("times as fast as torch", fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def samples(case: str, turn: int) -> list[Sample]:
    """New inputs every turn, so that no cache helps; every turn's have the same sizes."""
    rng = np.random.default_rng(turn)
    if case == "text":
        return [text(12, rng)]
    if case == "8 texts":
        return [text(n, rng) for n in (5, 12, 19, 26, 33, 40, 47, 54)]
    if case == "image":
        return [image(64, rng)]
    return [image(n, rng) for n in (64, 64, 144, 256)]


def _serve() -> None:
    """The process of a contestant: a request a line, an answer a line."""
    from ume_core import load

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no answer
    model, engine, options = json.loads(sys.argv[1])
    embedder = load(model, engine=engine, **options)
    print(json.dumps({"provider": getattr(embedder, "provider", None)}), file=answers, flush=True)
    for line in sys.stdin:
        case, turn = json.loads(line)
        items = [s.item for s in samples(case, turn)]
        began = time.perf_counter()
        vectors = embedder.embed(items).vectors("disc")
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "vectors": vectors.tolist()}), file=answers,
              flush=True)  # fmt: skip


if __name__ == "__main__":
    _serve()
