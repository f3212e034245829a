"""hit@k and NDCG@k of one query, with ties counted instead of decided by position.

`argsort(-scores)` keeps the order of the list among equal scores, and MMEB-V2 lists the right
candidate first: upstream a model that gives every candidate one score has hit@1 = 1.0 on all image
tasks. Here equal scores are worth what a random order of them is worth on average (`expected`), or
the least of any order (`pessimistic`); `listed` is upstream's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, log2
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ume_core.errors import InvalidOption

Ties: TypeAlias = Literal["expected", "pessimistic", "listed"]
TIES: tuple[Ties, ...] = get_args(Ties)
CUTOFFS = (1, 5, 10)
Scores: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ranked:
    """One query's metrics.

    Attributes:
        values: metric by name, such as `hit@1`.
        tied: whether a relevant and another candidate have one score.
    """

    values: dict[str, float]
    tied: bool


def rank(
    scores: Scores,
    candidates: Sequence[int] | None,
    relevant: Mapping[int, float],
    *,
    ties: Ties = "expected",
    cutoffs: Sequence[int] = CUTOFFS,
) -> Ranked:
    """Rank one query's candidates.

    Args:
        scores: shape (listed,), higher is better; -inf stands for a candidate without a vector.
        candidates: number of every listed candidate, repeats included; None for 0, 1, 2, ...
        relevant: grade above 0 by candidate number. Empty: hit and NDCG are 0, as upstream.
        ties: how equal scores are ranked.
        cutoffs: values of k.

    Raises:
        InvalidOption: a score is NaN, or `ties` is unknown.
    """
    if ties not in TIES:
        raise InvalidOption(f"unknown tie policy {ties!r}", fix=f"use one of: {', '.join(TIES)}")
    if np.isnan(scores).any():
        raise InvalidOption(
            "a score is NaN", fix="look for failed items in the records; NaN has no rank"
        )
    groups = _groups(scores, candidates, relevant, ties, max(cutoffs))
    ideal = sorted(relevant.values(), reverse=True)
    values: dict[str, float] = {}
    for k in cutoffs:
        values[f"hit@{k}"] = _hit(groups, k)
        for name, gain in (("linear", _linear), ("exponential", _exponential)):
            values[f"ndcg_{name}@{k}"] = _ndcg(groups, ideal, k, gain)
    tied = any(any(g) and not all(g) for g in _equal(scores, candidates, relevant))
    return Ranked(values, tied)


def _grades(
    candidates: Sequence[int] | None, relevant: Mapping[int, float], count: int
) -> npt.NDArray[np.float64]:
    """Grade of every listed candidate."""
    grades = np.zeros(count)
    if candidates is None:
        for number, grade in relevant.items():
            grades[number] = grade
        return grades
    return np.array([relevant.get(number, 0.0) for number in candidates], dtype=np.float64)


def _groups(
    scores: Scores,
    candidates: Sequence[int] | None,
    relevant: Mapping[int, float],
    ties: Ties,
    depth: int,
) -> list[npt.NDArray[np.float64]]:
    """Grades of equal scores together, best first, until `depth` candidates are covered.

    A decided order is groups of one.
    """
    grades = _grades(candidates, relevant, len(scores))
    if len(scores) > depth:  # only what can reach the top is sorted
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        kept = scores >= least
        scores, grades = scores[kept], grades[kept]
    if ties == "listed":
        order = np.argsort(-scores, kind="stable")
    else:
        order = np.lexsort((grades, -scores))  # among equals the worst first
    scores, grades = scores[order], grades[order]
    if ties != "expected":
        return [grades[n : n + 1] for n in range(min(depth, len(grades)))]
    return np.split(grades, np.flatnonzero(np.diff(scores)) + 1)


def _equal(
    scores: Scores, candidates: Sequence[int] | None, relevant: Mapping[int, float]
) -> list[npt.NDArray[np.float64]]:
    """For every relevant candidate, the grades of all listed ones that have its score."""
    grades = _grades(candidates, relevant, len(scores))
    levels = np.unique(scores[grades > 0])
    return [grades[scores == level] for level in levels]


def _hit(groups: list[npt.NDArray[np.float64]], k: int) -> float:
    """Probability that a relevant candidate is among the first k."""
    room = k
    for grades in groups:
        right = int((grades > 0).sum())
        if right:
            if len(grades) <= room:
                return 1.0
            return 1.0 - comb(len(grades) - right, room) / comb(len(grades), room)
        room -= len(grades)
        if room <= 0:
            break
    return 0.0


def _linear(grades: Any) -> Any:
    return grades


def _exponential(grades: Any) -> Any:
    return 2.0**grades - 1.0


def _ndcg(groups: list[npt.NDArray[np.float64]], ideal: list[float], k: int, gain: Any) -> float:
    """Expected DCG over the DCG of the best order; exact, since DCG is linear in the gains."""
    best = sum(gain(grade) / log2(place + 2) for place, grade in enumerate(ideal[:k]))
    if best == 0:
        return 0.0
    found, place = 0.0, 0
    for grades in groups:
        mean = float(np.mean(gain(grades)))
        for n in range(place, min(k, place + len(grades))):
            found += mean / log2(n + 2)
        place += len(grades)
        if place >= k:
            break
    return found / best
