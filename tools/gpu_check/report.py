"""The report on all stages that were run, as Markdown and as a plot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ORDER = ("environment", "correctness", "disc", "gen", "training")


def make(out: Path) -> Path:
    """Write `gpu-NAME.md` and `gpu-NAME.png` of the stages' files below a folder.

    Returns:
        The report.
    """
    stages = load(out)
    machine = value(stages, "environment", "machine") or {}
    device = machine.get("device") or next((s["device"] for s in stages.values()), "nothing")
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia", "")).strip("-")
    path = out / f"gpu-{slug}.md"
    picture = plot(stages, path.with_suffix(".png"))
    path.write_text(markdown(stages, device, machine, picture), "utf-8")
    return path


def load(out: Path) -> dict[str, dict[str, Any]]:
    """The newest findings of every stage, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.rglob("*.json"), key=lambda p: p.stat().st_mtime):
        content = json.loads(path.read_text("utf-8"))
        if content.get("stage") in ORDER:
            found[content["stage"]] = content
    return {name: found[name] for name in ORDER if name in found}


def value(stages: dict[str, Any], stage: str, check: str) -> Any:
    """What a check measured, or None."""
    return stages.get(stage, {}).get("checks", {}).get(check, {}).get("values")


def markdown(
    stages: dict[str, dict[str, Any]], device: str, machine: dict[str, Any], picture: Path | None
) -> str:
    """The whole report."""
    any_stage = next(iter(stages.values()), {})
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("torch", "transformers", "sentence-transformers", "python")
        if machine.get(name)
    )
    lines = [f"# GPU check: {device}", ""]
    if any_stage.get("size") == "nano":
        lines += ["**A rehearsal at ume-nano's size: nothing here says anything of a GPU.**", ""]
    cores = f"{machine['cores']} cores; " if "cores" in machine else ""
    lines += [f"{any_stage.get('date', '')[:10]}; {cores}{versions}. Seeded random weights.", ""]
    for name in ORDER:
        if name not in stages:
            lines += [f"## {name}", "", "Not run.", ""]
        else:
            lines += section(name, stages[name])
    if picture is not None:
        lines += [f"![Throughput against the recipe's model]({picture.name})", ""]
    return "\n".join(lines)


def section(name: str, found: dict[str, Any]) -> list[str]:
    """One stage."""
    lines = [f"## {name}", "", f"`{found['command']}`, {found.get('seconds', '?')} s.", ""]
    if not found["finished"]:
        ended = found.get("ended", "it did not finish")
        lines += [f"**The stage is not whole: {ended}.**", ""]
    checks: dict[str, dict[str, Any]] = found["checks"]
    plain = {k: v for k, v in checks.items() if "contestants" not in as_dict(v)}
    lines += ["| check | result | found |", "|---|---|---|"]
    for check, entry in plain.items():
        shown = entry.get("reason") or brief(entry.get("values"))
        lines.append(f"| {check} | {entry['status']} | {cell(shown)} |")
    lines.append("")
    for check, entry in checks.items():
        values = as_dict(entry)
        if "contestants" in values:
            rest = {k: v for k, v in values.items() if k != "contestants"}
            lines += [f"### {check}", "", brief(rest), "", *table(values["contestants"]), ""]
    return lines


def as_dict(entry: dict[str, Any]) -> dict[str, Any]:
    """A check's values, where they have names."""
    values = entry.get("values")
    return values if isinstance(values, dict) else {}


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A row a contestant."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(brief(row[n]) for n in names) + " |")
    return lines


def brief(values: Any) -> str:
    """Numbers of four digits, names kept."""
    if isinstance(values, dict):
        return ", ".join(f"{k} {brief(v)}" for k, v in values.items() if v is not None)
    if isinstance(values, list):
        return ", ".join(map(brief, values))
    if isinstance(values, float):
        return f"{values:.4g}"
    return "" if values is None else str(values)


def cell(text: str) -> str:
    """What a table's cell can hold."""
    return text.replace("|", "\\|").replace("\n", " ")[:400]


def plot(stages: dict[str, Any], path: Path) -> Path | None:
    """Items or tokens a second of everyone, a panel a case."""
    cases: dict[str, dict[str, float]] = {}
    for stage, unit in (("disc", "items/s"), ("gen", "tokens/s")):
        for check, entry in stages.get(stage, {}).get("checks", {}).items():
            rows = as_dict(entry).get("contestants", {})
            if rows and all(unit in row for row in rows.values()):
                cases[f"{check}\n{unit}"] = {label: row[unit] for label, row in rows.items()}
    if not cases:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(3.4 * columns, 3.2 * lines), squeeze=False
    )
    for axis in axes.flat[len(cases) :]:
        axis.axis("off")
    for axis, (name, rows) in zip(axes.flat, cases.items(), strict=False):
        colours = ["tab:blue" if label.startswith("ours") else "0.65" for label in rows]
        axis.bar(range(len(rows)), list(rows.values()), color=colours)
        labels = [label.replace(", ", ",\n") for label in rows]
        axis.set_xticks(range(len(rows)), labels, fontsize=6, rotation=50, ha="right")
        axis.set_title(name, fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path
