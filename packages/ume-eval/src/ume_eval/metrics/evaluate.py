"""All queries of a task: scores from vectors, metrics per query and their means."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ume_core.errors import InvalidOption
from ume_eval.data.model import Query, TaskData
from ume_eval.metrics.ranking import Ranked, Scores, Ties, rank
from ume_eval.metrics.upstream import relabelled

Vectors = npt.NDArray[np.float32]
_ROWS = 256  # queries scored together against a corpus
_DECIMALS = 7


@dataclass(frozen=True)
class Evaluated:
    """A scored task.

    Attributes:
        metrics: mean of every metric.
        per_query: the task's main metric of every query, shape (queries,).
        tied: queries whose relevant candidate shares its score with another one.
        upstream_exact: whether `..._upstream` is a value, or the average of a random one; None
            where there is none.
    """

    metrics: dict[str, float]
    per_query: npt.NDArray[np.float64]
    tied: int
    upstream_exact: bool | None = None


def evaluate(
    data: TaskData,
    queries: Vectors,
    candidates: Vectors,
    *,
    ties: Ties = "expected",
    failed_queries: frozenset[int] = frozenset(),
    failed_candidates: frozenset[int] = frozenset(),
) -> Evaluated:
    """Score a task by cosine similarity.

    Args:
        data: the task.
        queries: shape (queries, dimensions), unit length.
        candidates: likewise.
        ties: see `rank`.
        failed_queries: queries without a vector: they are misses.
        failed_candidates: candidates without a vector: they stand behind all others.

    Raises:
        InvalidOption: the numbers of vectors and entries differ, or a vector holds NaN.
    """
    for name, vectors, count, failed in (
        ("queries", queries, len(data.queries), failed_queries),
        ("candidates", candidates, len(data.candidates), failed_candidates),
    ):
        if len(vectors) != count:
            raise InvalidOption(
                f"{data.task.name}: {len(vectors)} vectors for {count} {name}", fix="embed again"
            )
        bad = set(np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist()) - failed
        if bad:
            raise InvalidOption(
                f"{data.task.name}: the vectors of {name} hold NaN, first in row {min(bad)}",
                fix="embed them again; NaN has no rank",
            )
    return evaluate_scores(
        data, score_rows(data, queries, candidates, failed_candidates), ties=ties,
        failed_queries=failed_queries,
    )  # fmt: skip


def evaluate_scores(
    data: TaskData,
    rows: Iterator[Scores],
    *,
    ties: Ties = "expected",
    failed_queries: frozenset[int] = frozenset(),
) -> Evaluated:
    """As `evaluate`, from each query's scores in the order of its list.

    Raises:
        InvalidOption: there are no queries, or a score is NaN.
    """
    if not data.queries:
        raise InvalidOption(f"{data.task.name} has no queries", fix="check its annotations")
    keys = [c.key for c in data.candidates]
    main = data.task.metric
    found: list[Ranked] = []
    upstream: list[float] = []
    exact = True
    for number, (query, scores) in enumerate(zip(data.queries, rows, strict=True)):
        if number in failed_queries:
            query, scores = replace(query, relevant={}), np.zeros_like(scores)
        found.append(rank(scores, query.candidates, query.relevant, ties=ties))
        if data.task.graded:
            value, sure = _upstream(query, scores, keys)
            upstream.append(value)
            exact = exact and sure
    metrics = {name: float(np.mean([r.values[name] for r in found])) for name in found[0].values}
    if data.task.graded:
        metrics[f"{main}_upstream"] = float(np.mean(upstream))
    per_query = np.array([r.values[main] for r in found])
    tied = sum(r.tied for r in found)
    return Evaluated(metrics, per_query, tied, exact if data.task.graded else None)


def score_rows(
    data: TaskData, queries: Vectors, candidates: Vectors, failed: frozenset[int]
) -> Iterator[Scores]:
    """Each query's scores, in the order of its list.

    Float64 and rounded: equal vectors must have equal scores, which float32 products of a BLAS
    library do not promise (their last bit depends on the column). Cosines of float32 vectors carry
    no more than seven decimals.
    """
    wide = candidates.astype(np.float64)
    whole: npt.NDArray[np.float64] = np.empty((0, 0))
    for number, query in enumerate(data.queries):
        if query.candidates is None:
            if number % _ROWS == 0 or not whole.size:
                whole = queries[number - number % _ROWS :][:_ROWS].astype(np.float64) @ wide.T
            scores = np.round(whole[number % _ROWS], _DECIMALS)
            listed = None
        else:
            listed = np.array(query.candidates, dtype=np.int64)
            scores = np.round(wide[listed] @ queries[number].astype(np.float64), _DECIMALS)
        if failed:
            scores[list(failed) if listed is None else np.isin(listed, list(failed))] = -np.inf
        yield scores


def _upstream(query: Query, scores: Scores, keys: list[Hashable]) -> tuple[float, bool]:
    """Linear NDCG@5 with upstream's grades and order of ties."""
    grades, exact = relabelled(query.relevant, keys)
    if not grades:
        return 0.0, True
    value = rank(scores, query.candidates, grades, ties="listed", cutoffs=(5,)).values
    # The ideal comes from the same grades in every order; a mean in their place would lower it.
    scale = _ideal(list(grades.values())) / _ideal(list(query.relevant.values()))
    return value["ndcg_linear@5"] * scale, exact


def _ideal(grades: list[float] | list[int]) -> float:
    best = sorted(grades, reverse=True)[:5]
    return sum(grade / np.log2(place + 2) for place, grade in enumerate(best))
