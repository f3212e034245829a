"""Joining the scores of disc and gen of one query."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ume_eval.metrics.ranking import Scores

WEIGHTS = tuple(round(0.1 * n, 1) for n in range(11))
_RRF = 60  # Cormack, Clarke, Buettcher 2009, and ranx's default
Quality = Callable[[Sequence[Scores]], npt.NDArray[np.float64]]


def z_scores(scores: Scores) -> Scores:
    """Mean 0, deviation 1; all 0 where the scores are equal."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def fuse(disc: Scores, gen: Scores, weight: float, *, standardised: bool) -> Scores:
    """`weight * gen + (1 - weight) * disc`, of raw cosines or of each query's z-scores."""
    if standardised:
        disc, gen = z_scores(disc), z_scores(gen)
    return np.round(weight * gen + (1 - weight) * disc, 7)


def reciprocal_ranks(disc: Scores, gen: Scores) -> Scores:
    """Sum of 1 / (60 + rank); equal scores share their mean rank."""
    return sum((1.0 / (_RRF + _ranks(s)) for s in (disc, gen)), np.zeros(len(disc)))


def _ranks(scores: Scores) -> npt.NDArray[np.float64]:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    places = np.arange(1, len(scores) + 1, dtype=np.float64)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    means = np.add.reduceat(places, starts) / np.diff(np.r_[starts, len(scores)])
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(means, np.diff(np.r_[starts, len(scores)]))
    return ranks


def cross_fitted(
    disc: Sequence[Scores],
    gen: Sequence[Scores],
    quality: Quality,
    *,
    standardised: bool,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Quality of fusion whose weight was chosen on other queries.

    Queries are halved at random; each half is scored with the weight that is best on the other.

    Args:
        disc: scores of every query.
        gen: likewise.
        quality: from scores of all queries to a metric per query.
        standardised: see `fuse`.
        seed: of the halving.

    Returns:
        Metric per query, and the two weights.
    """
    values = np.stack(
        [
            quality(
                [fuse(d, g, w, standardised=standardised) for d, g in zip(disc, gen, strict=True)]
            )
            for w in WEIGHTS
        ]
    )
    half = np.zeros(len(disc), dtype=bool)
    half[np.random.default_rng(seed).permutation(len(disc))[: len(disc) // 2]] = True
    found = np.empty(len(disc))
    weights: list[float] = []
    for scored in (half, ~half):
        best = int(values[:, ~scored].mean(axis=1).argmax())
        weights.append(WEIGHTS[best])
        found[scored] = values[best, scored]
    return found, weights
