"""The figures of `python -m tools.scale` as a page with a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

_MIB = 1024 * 1024
_STEPS = ("build", "known", "approximate", "exact", "again")


def write_report(figures: dict[str, Any], rows: list[int], dimensions: int, to: Path) -> None:
    """Write README.md, figures.json and scale.png.

    Args:
        figures: `STEP ROWS` -> what was measured; a step may be missing.
        rows: sizes of the index.
        dimensions: of its vectors.
        to: the folder.
    """
    to.mkdir(parents=True, exist_ok=True)
    (to / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    _plot(figures, rows, to / "scale.png")
    lines = [
        "# An index of a million rows",
        "",
        f"`python -m tools.scale` on two cores: {dimensions} float32 dimensions in 2,000 clusters, "
        "rows written by the index's writer in commits of 4,096, each step a process of its own. "
        "CPU seconds are the process's own, and load is the machine's average at a step's end.",
        "",
        "| step | rows | CPU s | wall s | load | peak memory, MiB | other |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in _STEPS:
        for size in rows:
            found = figures.get(f"{step} {size}")
            if found is None:
                lines.append(f"| {step} | {size:,} | not run | | | | |")
                continue
            lines.append(
                f"| {step} | {size:,} | {found['cpu_seconds']:.1f} | {found['seconds']:.0f} | "
                f"{found['load']:.1f} | {found['peak_bytes'] / _MIB:.0f} | {_other(found)} |"
            )
    lines += [
        "",
        "build: write what the step before lacks, compact, index, read everything back. known: "
        "read path, kind and digest of every row. approximate: searches as they are by default, "
        "and recall@10 against exact ones; from 100,000 rows on by IVF_RQ. exact: every vector "
        "compared. again: a run in which nothing is new.",
        "",
        "![search times and memory](scale.png)",
        "",
    ]
    (to / "README.md").write_text("\n".join(lines))


def _other(found: dict[str, Any]) -> str:
    said: list[str] = []
    if "p50" in found:
        said.append(f"p50 {1e3 * found['p50']:.0f} ms, p99 {1e3 * found['p99']:.0f} ms, ")
        said.append(f"fastest {1e3 * found['fastest']:.0f} ms")
    if "recall" in found:
        said.append(f", recall@10 {found['recall']:.3f}")
    if "disk_bytes" in found:
        said.append(
            f"{found['written']:,} rows written, {found['disk_bytes'] / _MIB:.0f} MiB on disk"
        )
    return "".join(said)


def _plot(figures: dict[str, Any], rows: list[int], to: Path) -> None:
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
    for step, colour in (("exact", "tab:orange"), ("approximate", "tab:blue")):
        sizes = [size for size in rows if f"{step} {size}" in figures]
        for name, style in (("p50", "o-"), ("p99", "o:")):
            values = [1e3 * figures[f"{step} {size}"][name] for size in sizes]
            times.loglog(sizes, values, style, color=colour, label=f"{step}, {name}")
    times.set(xlabel="rows", ylabel="a search, ms")
    for step in _STEPS:
        sizes = [size for size in rows if f"{step} {size}" in figures]
        values = [figures[f"{step} {size}"]["peak_bytes"] / _MIB for size in sizes]
        memory.semilogx(sizes, values, "o-", label=step)
    memory.set(xlabel="rows", ylabel="peak memory of the process, MiB", ylim=(0, None))
    for axes in (times, memory):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(to, dpi=120)
    plt.close(figure)
