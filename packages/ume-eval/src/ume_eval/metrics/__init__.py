"""Metrics of MMEB-V2: correct, and as upstream computes them where that differs."""

from ume_eval.metrics.evaluate import Evaluated, evaluate, evaluate_scores
from ume_eval.metrics.means import Mean, means
from ume_eval.metrics.ranking import TIES, Ranked, Ties, rank
from ume_eval.metrics.upstream import relabelled

__all__ = [
    "TIES",
    "Evaluated",
    "Mean",
    "Ranked",
    "Ties",
    "evaluate",
    "evaluate_scores",
    "means",
    "rank",
    "relabelled",
]
