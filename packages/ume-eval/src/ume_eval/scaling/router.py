"""Thinking only where it may pay: gen for the queries whose disc ranking is least sure.

Cost of a query is C_disc + share * C_gen; both indexes are needed, since the two spaces are not
aligned. Thresholds are quantiles of margins, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ume_eval.metrics.ranking import Scores

SHARES = tuple(round(0.1 * n, 1) for n in range(11))
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def margin(scores: Scores, *, standardised: bool) -> float:
    """Gap between the best two scores; infinite where there is one candidate.

    Args:
        scores: of one query.
        standardised: divide by the deviation of all its scores.
    """
    if len(scores) < 2:
        return float("inf")
    second, first = np.partition(scores, -2)[-2:]
    gap = float(first - second)
    spread = float(scores.std())
    return gap / spread if standardised and spread > 0 else gap


def margins(scores: Sequence[Scores], *, standardised: bool) -> Floats:
    """Of every query."""
    return np.array([margin(s, standardised=standardised) for s in scores])


def threshold(known: Floats, share: float) -> float:
    """The margin up to which `share` of queries are sent to gen.

    Args:
        known: margins of unlabelled queries.
        share: 0 to 1.
    """
    if share <= 0:
        return float("-inf")
    return float("inf") if share >= 1 else float(np.quantile(known, share))


def routed(known: Floats, share: float) -> Mask:
    """Queries that are sent to gen."""
    return known <= threshold(known, share)


def random_quality(disc: Floats, gen: Floats, share: float) -> Floats:
    """Expected metric per query when a share is sent at random."""
    return (1 - share) * disc + share * gen


def oracle_mask(disc: Floats, gen: Floats, share: float) -> Mask:
    """The best use of a share: the queries that gain most from gen."""
    chosen = np.zeros(len(disc), dtype=bool)
    chosen[np.argsort(-(gen - disc), kind="stable")[: round(share * len(disc))]] = True
    return chosen & (gen > disc)
