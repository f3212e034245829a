"""What a run writes down as it goes: JSON lines, TensorBoard, a line on the terminal."""

from __future__ import annotations

import csv
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS = 15.0  # between lines where there is no terminal
Row = dict[str, Any]


class Log:
    """The log of a run, at the first process; the others keep none.

    Attributes:
        shown: whether this process writes.
    """

    def __init__(self, run: Path, step: int, steps: int, *, shown: bool) -> None:
        """Go on at `step`: what was logged after it is forgotten."""
        self.shown, self._run, self._steps = shown, run, steps
        self._bar: Progress | None = None
        self._board: Any = None
        if not shown:
            return
        for name in ("log", "held-out", "warnings"):
            if (run / f"{name}.jsonl").is_file():
                kept = [row for row in read_log(run, name) if row["step"] <= step]
                text = "".join(json.dumps(r) + "\n" for r in kept)
                (run / f"{name}.jsonl").write_text(text, "utf-8")
        self._warned = set[str]()
        try:
            from tensorboardX import SummaryWriter
        except ImportError:  # ume-train brings it; from a source tree a run does without
            warnings.warn("no log for TensorBoard: tensorboardX is not installed", stacklevel=2)
        else:
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._began, self._first, self._last = time.monotonic(), step, 0.0
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=steps, completed=step)
            self._bar.start()

    def add(self, row: Row) -> None:
        """One row; `step` is among its values."""
        if not self.shown:
            return
        self._append("log", row)
        for name, value in row.items():
            if self._board is not None and isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(name, value, row["step"])

    def measured(self, row: Row) -> None:
        """What was found on held-out pairs; `step`, `recall` and `best` are among the values."""
        if not self.shown:
            return
        self._append("held-out", row)
        if self._board is not None:
            for name in row.keys() - {"step", "best"}:
                self._board.add_scalar(f"held-out/{name}", row[name], row["step"])
        self._say(f"step {row['step']:,}: {best_line(self._run)}")

    def warn(self, found: dict[str, str], step: int) -> None:
        """What is wrong at a step, by name; the terminal is told when it begins."""
        if not self.shown:
            return
        for name, text in found.items():
            self._append("warnings", {"step": step, "name": name, "text": text})
            if name not in self._warned:
                self._say(f"WARNING, step {step:,}: {text}")
        self._warned = set(found)

    def show(self, step: int, loss: float) -> None:
        """How far it is, what is wrong, and what remains."""
        if not self.shown:
            return
        wrong = f", WARNING: {', '.join(sorted(self._warned))}" if self._warned else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"loss {loss:.3f}{wrong}")
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS or step == self._steps:
            self._last = now
            left = (now - self._began) / max(1, step - self._first) * (self._steps - step)
            self._say(
                f"step {step:,} of {self._steps:,}, loss {loss:.3f}, about {span(left)} left{wrong}"
            )

    def _append(self, name: str, row: Row) -> None:
        with (self._run / f"{name}.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def text(self, name: str, text: str, step: int) -> None:
        """Readable text, for TensorBoard and `NAME.txt`."""
        if not self.shown:
            return
        with (self._run / f"{name}.txt").open("a", encoding="utf-8") as handle:
            handle.write(f"step {step}\n{text}\n\n")
        if self._board is not None:
            self._board.add_text(name, text, step)

    def close(self) -> None:
        """Write the table, and let go of the terminal."""
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
        write_csv(self._run)


def read_log(run: Path, name: str = "log") -> list[Row]:
    """The rows of a run's log, or of its `held-out` or `warnings`; none where there is no file.

    A line that was cut off while it was written is left out.
    """
    path = run / f"{name}.jsonl"
    rows: list[Row] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_csv(run: Path) -> None:
    """`log.csv` of `log.jsonl`, a column for each name."""
    rows = read_log(run)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (run / "log.csv").open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, names)
        table.writeheader()
        table.writerows(rows)


def best_line(run: Path) -> str:
    """The last and the best measurement on held-out pairs."""
    rows = read_log(run, "held-out")
    if not rows:
        return ""
    best = [r for r in rows if r["best"]][-1]
    parts = ", ".join(f"{n} {rows[-1][n]:.1%}" for n in ("disc", "gen") if n in rows[-1])
    return f"held-out recall@1 {parts}; best so far at step {best['step']:,} ({best['recall']:.1%})"


def span(seconds: float) -> str:
    """A time for people."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
