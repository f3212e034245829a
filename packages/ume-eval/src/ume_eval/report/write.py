"""Writing reports: JSON first, then the page made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ume_core.errors import InvalidOption
from ume_eval import published
from ume_eval.metrics.bootstrap import difference
from ume_eval.report import plots
from ume_eval.report.summary import summarise
from ume_eval.run.scores import read_scores
from ume_eval.run.store import write_json
from ume_eval.tasks import Task


def render(template: str, **values: Any) -> str:
    """A page; everything but our own plots is escaped."""
    environment = Environment(
        loader=PackageLoader("ume_eval.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)


def write_report(folder: Path, table: Sequence[Task]) -> Path:
    """Write `summary.json` and `report.html` of a run; returns the page.

    Args:
        folder: the run's output directory.
        table: tasks of its protocol.
    """
    summary = summarise(read_scores(folder), table)
    write_json(folder / "summary.json", summary)
    rows = {summary["model"]: [m["percent"] for m in summary["means"].values()]}
    groups = list(summary["means"])
    for name, values in summary["published"].items():
        rows[name] = [values[g] for g in groups]
    page = render(
        "run.html",
        title=f"MMEB-V2: {summary['model']}",
        s=summary,
        bars=plots.bars(groups, rows, "mean of tasks, %"),
        known=published.TASKS_2B if summary["published"] else {},
    )
    path = folder / "report.html"
    path.write_text(page, "utf-8")
    return path


def write_comparison(first: Path, second: Path, output: Path) -> Path:
    """Compare two runs query by query; writes JSON and a page, returns the page.

    Raises:
        InvalidOption: they share no task, or a task's data or metric differ.
    """
    ours, theirs = read_scores(first), read_scores(second)
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise InvalidOption("the two runs share no task", fix="score one task with both")
    rows: list[dict[str, Any]] = []
    for name in shared:
        a, b = ours[name], theirs[name]
        if a["rows"]["queries"] != b["rows"]["queries"] or a["metric"] != b["metric"]:
            raise InvalidOption(
                f"{name} has other queries in the two runs", fix="score it on the same data"
            )
        mean, low, high = difference(np.array(a["per_query"]), np.array(b["per_query"]))
        values = {"first": a["score"], "second": b["score"], "difference": mean}
        values |= {"low": low, "high": high}
        rows.append({"task": name, **{k: 100 * v for k, v in values.items()}})
    notes = _differences(ours[shared[0]], theirs[shared[0]])
    write_json(output.with_suffix(".json"), {"tasks": rows, "notes": notes})
    plot = plots.differences(
        [(r["task"], r["difference"], r["low"], r["high"]) for r in rows], "difference, points"
    )
    page = render(
        "comparison.html", title=f"{first.name} against {second.name}", rows=rows, notes=notes,
        plot=plot,
    )  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, "utf-8")
    return output


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What differs between two runs, besides what is to be compared."""
    found: list[str] = []
    for key in ("protocol", "modes", "convention", "instructions", "frames", "versions"):
        if first[key] != second[key]:
            found.append(f"{key}: {first[key]} against {second[key]}")
    if first["ties"]["policy"] != second["ties"]["policy"]:
        found.append("ties are ranked differently")
    return found
