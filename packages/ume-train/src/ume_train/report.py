"""A page about a run: what was asked for, and curves of what was logged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined

from ume_train.logs import read_log

_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
    "svg.hashsalt": "ume-train",  # equal input, equal file
}  # fmt: skip
# Rows of one curve each, in the page's order; others follow by name.
_FIRST = ("loss", "reward", "disc", "gen", "ce", "align")
_SMOOTH = 20  # steps of the running mean


def write_report(run: Path, stage: str) -> Path:
    """Write `report.html`; returns it."""
    rows = read_log(run)
    names = sorted({n for row in rows for n, v in row.items() if isinstance(v, (int, float))})
    names = [n for n in _FIRST if n in names] + [n for n in names if n not in (*_FIRST, "step")]
    plots = {name: curve(name, *_points(rows, name)) for name in names}
    samples = run / "samples.txt"
    held = read_log(run, "held-out")
    measured = {
        f"held-out {n}": curve(f"recall@1 of {n}, held-out pairs", *_points(held, n), few=True)
        for n in ("disc", "gen")
        if any(n in row for row in held)
    }
    page = (
        _environment()
        .get_template("run.html")
        .render(
            title=f"{stage}: {run.name}",
            steps=rows[-1]["step"] if rows else 0,
            hours=sum(float(r.get("seconds", 0)) for r in rows) / 3600,
            last=rows[-1] if rows else {},
            plots=measured | plots,
            best=[row for row in held if row["best"]][-1:],
            warnings=_warnings(run),
            config=(run / "config.yaml").read_text("utf-8"),
            samples=samples.read_text("utf-8")[-6000:] if samples.is_file() else "",
        )
    )
    path = run / "report.html"
    path.write_text(page, "utf-8")
    return path


def curve(name: str, steps: Sequence[int], values: Sequence[float], *, few: bool = False) -> str:
    """One logged value by step, with its running mean, or as `few` points, as SVG text."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if few:
            axes.plot(steps, values, color="#2b6cb0", linewidth=1.4, marker="o", markersize=4)
        else:
            axes.plot(steps, values, color="#a0aec0", linewidth=0.8, marker=".", markersize=2)
            mean = [
                sum(values[max(0, n - _SMOOTH + 1) : n + 1]) / min(n + 1, _SMOOTH)
                for n in range(len(values))
            ]
            axes.plot(steps, mean, color="#2b6cb0", linewidth=1.4)
        axes.set_title(name, loc="left")
        axes.set_xlabel("step")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _warnings(run: Path) -> list[dict[str, Any]]:
    """Each kind of warning: its first and last step, how often, and what it said last."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_log(run, "warnings"):
        entry = found.setdefault(row["name"], {"first": row["step"], "count": 0})
        entry["count"] += 1
        entry |= {"last": row["step"], "text": row["text"]}
    return list(found.values())


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(int(r["step"]), float(r[name])) for r in rows if name in r]
    return [s for s, _ in found], [v for _, v in found]


def write_filter_report(
    path: Path, summary: Sequence[dict[str, Any]], verdicts: Sequence[Any]
) -> Path:
    """A page about `ume train filter`: counts by data set, and the worst pairs; returns it."""

    def worst(verdict: Any) -> float:
        return min(
            verdict.query_positive - verdict.query_negative,
            verdict.target_positive - verdict.target_negative,
        )

    shown = sorted((v for v in verdicts if not v.kept), key=worst)[:200]
    page = _environment().get_template("filter.html").render(summary=summary, worst=shown)
    path.write_text(page, "utf-8")
    return path


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ume_train"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
