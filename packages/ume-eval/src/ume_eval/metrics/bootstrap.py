"""Percentile bootstrap over queries: how far a mean would move with other queries of their kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
_BLOCK = 2_000_000  # drawn indices at once
Values = npt.NDArray[np.floating[Any]]


def interval(
    values: Values, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean.

    Args:
        values: one per query, shape (queries,).
        level: share of resampled means inside.
        resamples: number of resampled sets.
        seed: of the resampling.
    """
    means = resampled_means(values[:, None], resamples=resamples, seed=seed)[:, 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference(
    ours: Values,
    theirs: Values,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `ours - theirs` over the same queries, and its interval (paired)."""
    gaps = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    low, high = interval(gaps, level=level, resamples=resamples, seed=seed)
    return float(gaps.mean()), low, high


def resampled_means(values: Values, *, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means of resampled rows, shape (resamples, columns), for `values` (rows, columns)."""
    rng = np.random.default_rng(seed)
    count = len(values)
    step = max(1, _BLOCK // count)
    found: list[npt.NDArray[np.float64]] = []
    for start in range(0, resamples, step):
        drawn = rng.integers(0, count, (min(step, resamples - start), count))
        found.append(values[drawn].mean(axis=1))
    return np.concatenate(found)
