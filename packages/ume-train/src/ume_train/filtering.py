"""Leaving out pairs whose thinking does more for hard negatives than for the positive.

For each side of a pair, its gen vector with the thinking and with the thinking left out (the
summary stays) is compared with the other sides of its group. The thinking moved the positive by d+
and the `hard` nearest negatives, as chosen without it, by a mean d-. A pair is kept if d+ >= d- on
both sides. After the counterfactual of MMEmb-R1 (arXiv 2604.06156) and SURE's count of such cases
(arXiv 2609.29560).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.prompts import ANSWER_OPEN, GEN_TOKEN, THINK_CLOSE, THINK_OPEN
from ume_train.data.pairs import Example
from ume_train.data.source import FileSource
from ume_train.forward import Policy
from ume_train.rendering import Renderings

_THINKING = re.compile(
    rf"{re.escape(THINK_OPEN)}.*?{re.escape(THINK_CLOSE)}(?=.*{re.escape(ANSWER_OPEN)})", re.DOTALL
)


@dataclass(frozen=True)
class Verdict:
    """What thinking did for one pair.

    Attributes:
        row: the pair's number in the source.
        place: where its record stands.
        dataset: its data set.
        query_positive: by how much the query's thinking moved its cosine to the target.
        query_negative: the same, to the hard negatives.
        target_positive: by how much the target's moved its cosine to the query.
        target_negative: the same, to the hard negatives.
        kept: whether the pair stays.
    """

    row: int
    place: str
    dataset: str
    query_positive: float
    query_negative: float
    target_positive: float
    target_negative: float
    kept: bool


def moved(full: Tensor, without: Tensor, others: Tensor, hard: int) -> tuple[Tensor, Tensor]:
    """By how much thinking moved each row's cosine to its own other side, and to hard negatives.

    Args:
        full, without: vectors (rows, dim) with and without the thinking.
        others: the other sides' vectors, row for row.
        hard: how many of the nearest negatives count; fewer where there are fewer.

    Returns:
        Two of (rows,): to the positive, and the mean to the hard negatives (0 without any).
    """
    unit = F.normalize(others.float(), dim=1)
    now = F.normalize(full.float(), dim=1) @ unit.T
    before = F.normalize(without.float(), dim=1) @ unit.T
    own = torch.eye(len(now), dtype=torch.bool, device=now.device)
    count = min(hard, len(now) - 1)
    positive = (now - before).diagonal()
    if count < 1:
        return positive, torch.zeros_like(positive)
    nearest = before.masked_fill(own, -torch.inf).topk(count, dim=1).indices
    return positive, (now - before).gather(1, nearest).mean(dim=1)


def without_thinking(example: Example) -> Example:
    """The same with empty thinking; answers of another form lose all before their `<gen_emb>`."""
    assert example.answer is not None
    text = _THINKING.sub(f"{THINK_OPEN}{THINK_CLOSE}", example.answer.text)
    if text == example.answer.text:
        text = GEN_TOKEN
    return replace(example, answer=replace(example.answer, whole=text))


def judge(
    source: FileSource,
    policy: Policy,
    render: Renderings,
    kept: Path,
    *,
    group: int,
    hard: int,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Verdict]:
    """Verdicts on all pairs, written to `kept` group by group, so that a run goes on.

    Args:
        source: the pairs.
        policy: the pass.
        render: lays out the pairs.
        kept: JSON lines of what was judged before.
        group: pairs that are each other's negatives, of one data set.
        hard: see `moved`.
        progress: is told how many pairs are done.
    """
    done = _judged(kept)
    for dataset, rows in source.in_groups(group):
        if all(row in done for row in rows):
            progress(len(rows))
            continue
        pairs = [source.pair(row) for row in rows]
        sides: list[tuple[Tensor, Tensor]] = []
        for examples in ([q for q, _ in pairs], [p for _, p in pairs]):
            with torch.no_grad():
                full = policy(render(examples, answers=True)).gen
                bare = policy(render([without_thinking(e) for e in examples], answers=True)).gen
            sides.append((full, bare))
        (query, query_bare), (target, target_bare) = sides
        deltas = (*moved(query, query_bare, target, hard), *moved(target, target_bare, query, hard))
        columns = [d.tolist() for d in deltas]
        with kept.open("a", encoding="utf-8") as handle:
            for index, row in enumerate(rows):
                a, b, c, d = (column[index] for column in columns)
                place = pairs[index][0].place.removesuffix(", qry")
                verdict = Verdict(row, place, dataset, a, b, c, d, kept=a >= b and c >= d)
                done[row] = verdict
                handle.write(json.dumps(asdict(verdict)) + "\n")
        progress(len(rows))
    return [done[row] for row in sorted(done)]


def _judged(path: Path) -> dict[int, Verdict]:
    found: dict[int, Verdict] = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            verdict = Verdict(**json.loads(line))
        except (ValueError, TypeError):  # cut off while it was written
            continue
        found[verdict.row] = verdict
    return found


def summary(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Counts and mean moves by data set, and of all."""
    out: list[dict[str, Any]] = []
    for name in (*sorted({v.dataset for v in verdicts}), None):
        found = [v for v in verdicts if name is None or v.dataset == name]
        out.append(
            {
                "dataset": name or "all",
                "pairs": len(found),
                "dropped": sum(not v.kept for v in found),
                **{
                    key: sum(getattr(v, key) for v in found) / max(1, len(found))
                    for key in (
                        "query_positive", "query_negative", "target_positive", "target_negative",
                    )
                },
            }
        )  # fmt: skip
    return out
