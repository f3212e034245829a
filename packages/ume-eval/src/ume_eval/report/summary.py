"""A run in figures: means with their coverage, costs, what makes it incomparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ume_eval import published
from ume_eval.metrics import means
from ume_eval.run.scores import comparable
from ume_eval.tasks import Task


def summarise(records: Mapping[str, dict[str, Any]], table: Sequence[Task]) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        records: score files by task.
        table: the protocol's tasks.

    Raises:
        InvalidOption: the files were scored under different conditions.
    """
    comparable(dict(records))
    first = next(iter(records.values()))
    found = means({name: r["score"] for name, r in records.items()}, table)
    partial = {name for name, r in records.items() if not r["complete"]}
    whole = found["All"].complete and all(r["complete"] for r in records.values())
    return {
        "model": first["signature"]["query"]["model"],
        "weights": first["signature"]["query"]["weights"],
        "protocol": first["protocol"],
        "modes": first["modes"],
        "ties": first["ties"]["policy"],
        "convention": first["convention"],
        "complete": whole,
        "means": {
            group: {
                "percent": m.value,
                "scored": m.scored,
                "of": m.total,
                "text": str(m) + ("*" if partial & members_of(group, table) else ""),
            }
            for group, m in found.items()
        },
        "warnings": warnings(records, whole),
        "published": dict(published.ROWS) if _has_published(first, whole) else {},
        "tasks": {
            name: {k: r[k] for k in ("metric", "score", "interval_95", "rows", "ranking")}
            | {"modality": r["modality"], "meta_task": r["meta_task"], "status": r["status"]}
            for name, r in records.items()
        },
        "cost": cost(records),
        "versions": first["versions"],
    }


def members_of(group: str, table: Sequence[Task]) -> set[str]:
    """Tasks of a modality, a meta-task, or `All`."""
    return {t.name for t in table if group in (t.modality, t.meta_task, "All")}


def _has_published(first: Mapping[str, Any], whole: bool) -> bool:
    """Published rows are shown only beside what they can be compared with."""
    gen = first["modes"] == {"query": "gen", "target": "gen"}
    return whole and gen and first["protocol"]["name"] == published.PROTOCOL


def cost(records: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Tokens and seconds of all tasks; a candidate that tasks share counts in each of them."""
    total: dict[str, float] = {}
    for record in records.values():
        for side in record["cost"].values():
            for name, value in side.items():
                total[name] = total.get(name, 0) + value
    return total


def warnings(records: Mapping[str, dict[str, Any]], whole: bool) -> list[str]:
    """What keeps the numbers from being compared with others."""
    found: list[str] = []
    partial = [name for name, r in records.items() if not r["complete"]]
    if partial:
        found.append(
            f"{len(partial)} tasks have other rows than the protocol: means marked * are not "
            "MMEB-V2 scores"
        )
    elif not whole:
        found.append(f"{len(records)} of 78 tasks are scored: means are partial")
    frames = [n for n, r in records.items() if r["frames"] != r["frames_of_the_protocol"]]
    if frames:
        found.append(f"{len(frames)} tasks take another number of frames than the protocol's 8")
    failed = sum(s["failed"] for r in records.values() for s in r["status"].values())
    if failed:
        found.append(f"{failed} items have no vector and count as misses")
    forced = sum(s["forced"] for r in records.values() for s in r["status"].values())
    if forced:
        found.append(f"{forced} answers did not end in time; <gen_emb> was forced after them")
    tied = sum(r["ties"]["queries_with_a_tied_positive"] for r in records.values())
    if tied:
        found.append(f"in {tied} queries the right candidate shares its score with another one")
    unpinned = sum(r["data"]["revision"] is None for r in records.values())
    if unpinned:
        found.append(
            f"the data revision of {unpinned} tasks is unknown; their digests are recorded"
        )
    return found
