"""A run as Markdown and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tools.fuzz.judge import FAMILIES, MOST_BYTES, MOST_SECONDS, Verdict


def summary(verdicts: Iterable[Verdict], about: dict[str, Any]) -> dict[str, Any]:
    """What a run found, by family and format."""
    found = list(verdicts)
    groups: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        for kind in sorted({v.kind for v in found if v.family == family}):
            of = [v for v in found if (v.family, v.kind) == (family, kind)]
            groups[f"{family}: {kind}" if kind != family[:-1] else family] = {
                "inputs": len(of),
                "outcomes": dict(Counter(v.outcome for v in of).most_common()),
                "slowest_s": max(v.seconds for v in of),
                "peak_mib": max(v.megabytes for v in of),
            }
    findings = [
        {"input": f"{v.family}:{v.number}", "kind": v.kind, "finding": v.finding}
        for v in found
        if v.finding
    ]
    return {**about, "groups": groups, "findings": findings}


def markdown(found: dict[str, Any]) -> str:
    """The report."""
    total = sum(group["inputs"] for group in found["groups"].values())
    lines = [
        "# Fuzzing",
        "",
        f"`{found['command']}` on {found['date']}; {found['versions']}; seed {found['seed']}, "
        f"{found['seconds']} s. "
        f'{total:,} inputs, one at a time through ume-nano\'s `embed(..., on_error="record")`. '
        f"Allowed: a vector, or one of our errors, within {MOST_SECONDS:g} s and "
        f"{MOST_BYTES >> 30} GiB.",
        "",
        f"**Findings: {len(found['findings'])}.**",
        "",
    ]
    lines += [f"- `--only {f['input']}` ({f['kind']}): {f['finding']}" for f in found["findings"]]
    lines += [""] * bool(found["findings"])
    lines += [
        "| inputs | number | outcomes | slowest, s | peak, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, group in found["groups"].items():
        outcomes = ", ".join(f"{kind} {count:,}" for kind, count in group["outcomes"].items())
        lines.append(
            f"| {name} | {group['inputs']:,} | {outcomes} | {group['slowest_s']:.2f} | "
            f"{group['peak_mib']:,} |"
        )
    return "\n".join(lines) + "\n"
