"""Thinking only where it may pay: gen for the queries whose disc ranking is least sure.

Cost of a query is C_disc + share * C_gen; both indexes are needed, since the two spaces are not
aligned. Thresholds are quantiles of margins, without labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ume_core.retrieval import margin, margins, threshold

__all__ = [
    "SHARES", "margin", "margins", "oracle_mask", "random_quality", "routed", "threshold",
]  # fmt: skip
SHARES = tuple(round(0.1 * n, 1) for n in range(11))
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


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
