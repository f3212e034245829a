"""NDCG as upstream computes it on graded sets, where grades end up on wrong pages.

VLM2Vec @6e1e1d4 `src/utils/eval_utils/metrics.py` passes the labels through a set and keeps the
list of grades in its own order. Whole-number ids come out of a set in one order; the order of texts
differs from process to process, so that only its average can be given.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def relabelled(
    relevant: Mapping[int, int], keys: Sequence[Hashable]
) -> tuple[dict[int, float], bool]:
    """Grades as upstream attaches them.

    Args:
        relevant: grade by candidate number, in the annotation's order.
        keys: upstream's id of every candidate.

    Returns:
        Grade by candidate number, and whether it is exact. Otherwise every grade is the mean: the
        average of linear DCG over all orders. (The ideal DCG must still use the true grades.)
    """
    numbers, grades = list(relevant), list(relevant.values())
    if all(isinstance(keys[n], int) for n in numbers):
        by_key = {keys[n]: n for n in numbers}
        order = list({keys[n] for n in numbers})
        return {by_key[key]: grade for key, grade in zip(order, grades, strict=True)}, True
    mean = sum(grades) / len(grades) if grades else 0.0
    return dict.fromkeys(numbers, mean), len(set(grades)) <= 1
