"""Plots as SVG text, to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#718096")
_MARKERS = "os^DvPX"  # seven against five colours: no two of 35 entries look alike
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ume-eval",  # equal input, equal file
}


def bars(groups: Sequence[str], rows: Mapping[str, Sequence[float | None]], label: str) -> str:
    """Grouped bars.

    Args:
        groups: names on the axis.
        rows: a value per group, in percent, by legend entry.
        label: of the value axis.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9, 3.2)
        width = 0.8 / max(1, len(rows))
        for number, (name, values) in enumerate(rows.items()):
            places = [n + width * (number - (len(rows) - 1) / 2) for n in range(len(groups))]
            heights = [0 if v is None else v for v in values]
            axes.bar(places, heights, width, label=name, color=COLOURS[number % len(COLOURS)])
        axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def cost_quality(
    curves: Mapping[str, Sequence[Mapping[str, float]]], x_label: str, y_label: str
) -> str:
    """Quality against cost, with intervals.

    Args:
        curves: points with `cost`, `quality`, and optionally `low`, `high`, by legend entry; one
            point is drawn as a marker, several as a line.
        x_label: of the cost axis.
        y_label: of the quality axis.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9, 4.6)
        for number, (name, points) in enumerate(curves.items()):
            ordered = sorted(points, key=lambda p: p["cost"])
            x, y = [p["cost"] for p in ordered], [p["quality"] for p in ordered]
            colour = COLOURS[number % len(COLOURS)]
            style = "-" if len(points) > 1 else ""
            marker = _MARKERS[number % len(_MARKERS)]
            size = 3.5 if len(points) > 1 else 7
            axes.plot(x, y, style, marker=marker, ms=size, color=colour, label=name)
            if all("low" in p for p in ordered):
                low, high = ([p[k] for p in ordered] for k in ("low", "high"))
                if len(points) > 1:
                    axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
                else:
                    axes.vlines(x, low, high, color=colour, lw=1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
        return _svg(figure)


def differences(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Paired differences with their intervals: (name, mean, low, high), in points."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(7, 0.22 * len(rows) + 1.2)
        for place, (_, mean, low, high) in enumerate(reversed(rows)):
            sure = low > 0 or high < 0
            axes.plot([low, high], [place, place], color=COLOURS[0 if sure else 4], lw=1.5)
            axes.plot(mean, place, "o", ms=4, color=COLOURS[0 if sure else 4])
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
        axes.set_xlabel(label)
        return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
