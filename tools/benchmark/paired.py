"""Two checkouts of this project against each other: is any case slower than it was?

    git worktree add ../old COMMIT && ../old/tools/setup main
    python -m tools.benchmark.paired ../old [--rounds 8] [--starts 7] [--name NAME]

Each checkout's ume-nano runs in a process of its own environment. They take turns on the same
inputs, new ones every round, and the first of a round alternates. CPU seconds of one thread
are compared, since other work on the machine hardly moves them; this checkout runs twice, and its
second run is the control that shows the noise. A process may be a fifth slower than the next one
of the same code, for as long as it lives, so that all processes are started anew several times, and
each time gives one ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmark.cases import Sample, clip, image, text
from tools.benchmark.child import ROOT, Child

REPORTS = Path(__file__).resolve().parent / "reports"
WARM = 2
# name -> (samples of a turn, options of `embed`)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a text": (lambda rng: [text(12, rng)], {}),
    "16 texts": (lambda rng: [text(n, rng) for n in range(4, 52, 3)], {}),
    "an image": (lambda rng: [image(64, rng)], {}),
    "8 images": (lambda rng: [image(n, rng) for n in (64, 64, 100, 144) * 2], {}),
    "a video": (lambda rng: [clip(8, rng)], {}),
    "gen, a text": (lambda rng: [text(12, rng)], {"mode": "gen", "max_new_tokens": 48}),
    "gen, 8 images": (
        lambda rng: [image(64, rng) for _ in range(8)],
        {"mode": "gen", "max_new_tokens": 48},
    ),
    "both, 4 texts": (
        lambda rng: [text(12, rng) for _ in range(4)],
        {"mode": "both", "max_new_tokens": 48},
    ),
}


class Checkout(Child):
    """A checkout's engine in a process of its own."""

    def __init__(self, label: str, folder: Path) -> None:
        super().__init__(
            label, [folder / ".venv" / "bin" / "python", __file__, "--serve"], folder=folder,
            # These cases; one thread, since threads that wait for others spin.
            environment={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, case: str, turn: int) -> dict[str, float]:
        """Seconds of one call: `cpu` of all threads, `wall`."""
        return self.ask(case, turn)


def compare(old: Path, rounds: int, starts: int) -> list[dict[str, Any]]:
    """A row per case: median CPU and wall milliseconds, and the ratios to the old checkout's."""
    found: dict[str, list[dict[str, dict[str, float]]]] = {case: [] for case in CASES}
    for start in range(starts):
        sides = [Checkout("old", old), Checkout("new", ROOT), Checkout("again", ROOT)]
        try:
            for case, medians in found.items():
                medians.append(_medians(sides, case, rounds, start * (rounds + WARM)))
                print(json.dumps([case, medians[-1]]), file=sys.stderr, flush=True)
        finally:
            for side in sides:
                side.close()
    return [_row(case, medians) for case, medians in found.items()]


def _medians(
    sides: list[Checkout], case: str, rounds: int, first_turn: int
) -> dict[str, dict[str, float]]:
    """Of a case in the processes that run: by side, `cpu` and `wall` in milliseconds."""
    taken: dict[str, list[dict[str, float]]] = {side.label: [] for side in sides}
    for turn in range(rounds + WARM):
        first = turn % len(sides)
        for side in sides[first:] + sides[:first]:
            seconds = side.run(case, first_turn + turn)
            if turn >= WARM:
                taken[side.label].append(seconds)
    return {
        label: {kind: round(1000 * float(np.median([s[kind] for s in all_])), 2)
                for kind in ("cpu", "wall")}
        for label, all_ in taken.items()
    }  # fmt: skip


def _row(case: str, starts: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    def of(label: str, kind: str = "cpu") -> np.ndarray[Any, Any]:
        return np.array([start[label][kind] for start in starts])

    ratio, control = of("new") / of("old"), of("again") / of("new")
    return {
        "case": case,
        "old cpu ms": round(float(np.median(of("old"))), 1),
        "new cpu ms": round(float(np.median(of("new"))), 1),
        "new/old cpu": [round(float(q), 3) for q in np.percentile(ratio, [25, 50, 75])],
        "control": [round(float(q), 3) for q in np.percentile(control, [25, 50, 75])],
        "new/old wall": round(float(np.median(of("new", "wall") / of("old", "wall"))), 3),
    }


def write(name: str, told: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The report: JSON, Markdown, plot."""
    old, new = told["old"], told["new"]
    stored = {**told, "cases": rows}
    (REPORTS / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")
    lines = [
        f"# {new} against {old}",
        "",
        f"ume-nano on a CPU, `python -m tools.benchmark.paired`: {told['starts']} times new "
        f"processes, {told['rounds']} rounds in turns each after {WARM} to warm up. Medians over "
        "the starts, quartiles in brackets; below 1 the new checkout takes less. The control is "
        "the new checkout against itself.",
        "",
        "| case | old, CPU ms | new, CPU ms | new/old, CPU | control | new/old, wall |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [f"{m} ({a}-{b})" for a, m, b in (row["new/old cpu"], row["control"])]
        lines.append(
            f"| {row['case']} | {row['old cpu ms']} | {row['new cpu ms']} | {ratios[0]} | "
            f"{ratios[1]} | {row['new/old wall']} |"
        )
    (REPORTS / f"{name}.md").write_text("\n".join([*lines, "", f"![]({name}.png)", ""]))
    _plot(rows, f"CPU seconds, {new} / {old}", REPORTS / f"{name}.png")


def _plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.4))
    for offset, key, color in ((-0.15, "new/old cpu", "tab:blue"), (0.15, "control", "0.6")):
        low, middle, high = np.array([row[key] for row in rows]).T
        places = np.arange(len(rows)) + offset
        axis.errorbar(
            places, middle, [middle - low, high - middle], fmt="o", color=color, label=key
        )
    axis.axhline(1, color="black", lw=0.6)
    axis.set_xticks(range(len(rows)), [row["case"] for row in rows], rotation=25, ha="right")
    axis.legend(fontsize=8)
    axis.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _serve() -> None:
    """The process of a checkout: a request a line, an answer a line."""
    from ume_core import load

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no answer
    model = load("ume-nano", engine="torch", device="cpu")
    for line in sys.stdin:
        case, turn = json.loads(line)
        make, options = CASES[case]
        samples: list[Sample] = make(np.random.default_rng(turn))
        items = [s.item for s in samples]
        cpu, wall = time.process_time(), time.perf_counter()
        model.embed(items, **options)
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(taken), file=answers, flush=True)


def main() -> int:
    """Compare and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path, nargs="?", help="the other checkout, set up")
    parser.add_argument("--rounds", type=int, default=8, help="of a start")
    parser.add_argument("--starts", type=int, default=7, help="of all processes")
    parser.add_argument("--name", default="paired", help="of the report")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve()
        return 0
    if args.old is None or not (args.old / ".venv" / "bin" / "python").is_file():
        print("name the other checkout; run its tools/setup main first", file=sys.stderr)
        return 2
    old, new = (
        subprocess.run(
            ["git", "-C", folder, "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for folder in (args.old, ROOT)
    )  # fmt: skip
    told = {"old": old, "new": new, "rounds": args.rounds, "starts": args.starts}
    write(args.name, told, compare(args.old.resolve(), args.rounds, args.starts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
