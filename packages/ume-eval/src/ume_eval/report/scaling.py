"""The page of a scaling study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ume_eval.report import plots
from ume_eval.report.write import render
from ume_eval.run.store import write_json


def write_scaling(folder: Path, about: Mapping[str, Any], studies: list[dict[str, Any]]) -> Path:
    """Write `scaling.json` and `scaling.html`; returns the page.

    Args:
        folder: made if missing.
        about: model and settings.
        studies: of `ume_eval.scaling.study`.
    """
    write_json(folder / "scaling.json", {"about": dict(about), "studies": studies})
    shown = [{"s": s, "quality": cost_plot(s), "passes": _passes(s)} for s in studies]
    page = render("scaling.html", title="What thinking is worth", about=about, studies=shown)
    path = folder / "scaling.html"
    path.write_text(page, "utf-8")
    return path


def cost_plot(study: Mapping[str, Any]) -> str:
    """Quality against tokens of a query, in percent, as SVG."""
    curves: dict[str, list[dict[str, float]]] = {}
    for name, points in study["router"].items():
        curves[f"router: {name}"] = [_percent(p) for p in points]
    for name, point in study["points"].items():
        curves[name] = [_percent(point)]
    return plots.cost_quality(
        curves, "tokens of a query (prompt and generated), mean", f"{study['metric']}, %"
    )


def _percent(point: Mapping[str, float]) -> dict[str, float]:
    scaled = {k: 100 * point[k] for k in ("quality", "low", "high")}
    return {"cost": point["query_tokens"], **scaled}


def _passes(study: Mapping[str, Any]) -> str:
    if "samples" not in study:
        return ""
    curve = [
        {"cost": p["k"], **{k: 100 * p[k] for k in ("quality", "low", "high")}}
        for p in study["samples"]["pass_at_k"]
    ]
    return plots.cost_quality({"pass@k": curve}, "k", f"{study['metric']} right, %")
