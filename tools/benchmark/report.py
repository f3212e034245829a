"""The report as Markdown and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """The whole report."""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    lines = [
        f"# Benchmark: {found['size']} shape, {found['dtype']}, {found['device']}",
        "",
        f"{found['hardware']}; {found['date']}; {versions}. `{found['command']}`, "
        f"{found['rounds']} interleaved rounds after the warm-up, {found['seconds']} s in all. "
        + ("ume-nano's weights." if found["size"] == "nano" else "Seeded random weights.")
        + " Times are this machine's; ratios are what carries over.",
        "",
        f"Ceilings measured here: {found['matmul_flops'] / 1e12:.2f} TFLOP/s (a large product), "
        f"{found['read_bytes'] / 1e9:.0f} GB/s (reading).",
        "",
    ]
    for name, case in found["cases"].items():
        lines += _case(name, case, found)
    extras = found.get("extras", {})
    for name, rows in extras.items():
        lines += [f"## {name}", "", *table(rows), ""]
    return "\n".join(lines)


def _case(name: str, case: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = [f"## {name}", ""]
    disc = case["kind"] == "disc"
    if disc:
        tokens, work = ", ".join(map(str, case["prompt_tokens"])), case["flops"] / 1e12
        lines.append(f"Prompts of {tokens} tokens; {work:.3f} TFLOP, without logits and padding.")
    else:
        floor = 1000 * case["step_bytes"] / found["read_bytes"]
        lines.append(f"Answers of {', '.join(map(str, case['lengths']))} tokens, scripted; a step "
                     f"reads {case['step_bytes'] / 1e9:.2f} GB of weights, {floor:.3g} ms at the "
                     "measured rate. Steps include their share of the prefill.")  # fmt: skip
    unit = "items/s" if disc else "tokens/s"
    lines += ["", f"| | median s | lowest-highest | {unit} | against the first | "
              + ("of the measured matmul rate" if disc else "ms a step") + " | least cosine |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    first = None
    for label, run in case["runs"].items():
        samples = 8 if "8 samples" in label else 1
        amount = run["items"] if disc else run["tokens"] * samples
        rate = amount / run["median"]
        first = first or rate
        if disc:
            share = case["flops"] / run["median"] / found["matmul_flops"]
            last = f"{100 * share:.0f} %"
        else:
            batch = 1 if "one by one" in label or "sample" in label else run["items"]
            steps = run["tokens"] if batch == 1 else max(case["lengths"][: run["items"]])
            last = f"{1000 * run['median'] / steps:.0f}"
        cosine = run["least_cosine_to_first"]
        shown = "" if cosine is None else f"{cosine:.5f}"
        lines.append(
            f"| {label} | {run['median']:.3f} | {run['low']:.3f}-{run['high']:.3f} | {rate:.2f} | "
            f"{rate / first:.2f}x | {last} | {shown} |"
        )
    return [*lines, ""]


def table(rows: Any) -> list[str]:
    """Lines of a Markdown table from a list of rows, or from rows by name."""
    if isinstance(rows, dict):
        values: dict[str, Any] = rows
        if not any(isinstance(v, dict) for v in values.values()):
            rows = [values]
        else:
            rows = [{"": key, **value} for key, value in values.items()]
    names = list(rows[0])
    lines = [
        "| " + " | ".join(n.replace("_", " ") for n in names) + " |",
        "|---" * len(names) + "|",
    ]
    for row in rows:
        cells = [f"{v:.5g}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(found: dict[str, Any], path: Path) -> None:
    """Throughput against the first contestant, with the spread of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = found["cases"]
    figure, axes = pyplot.subplots(
        1, max(1, len(cases)), figsize=(3.2 * max(1, len(cases)), 3.6), squeeze=False
    )
    for axis, (name, case) in zip(axes[0], cases.items(), strict=False):
        runs = case["runs"]
        base = None
        for place, (label, run) in enumerate(runs.items()):
            samples = 8 if "8 samples" in label else 1
            amount = run["items"] if case["kind"] == "disc" else run["tokens"] * samples
            base = base or amount / run["median"]
            middle, low, high = (amount / run[k] / base for k in ("median", "high", "low"))
            colour = "tab:blue" if label.startswith("ours") else "0.65"
            axis.bar(place, middle, color=colour)
            axis.errorbar(place, middle, [[middle - low], [high - middle]], color="black", lw=1)
        axis.set_xticks(range(len(runs)), [r.replace(", ", ",\n") for r in runs], fontsize=6,
                        rotation=60, ha="right")  # fmt: skip
        axis.set_title(name, fontsize=9)
        axis.tick_params(axis="y", labelsize=7)
    axes[0][0].set_ylabel("throughput against the first", fontsize=8)
    figure.suptitle(
        f"{found['size']} {found['dtype']}, {found['hardware']}, {found['date']}", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
