"""What thinking is worth: samples, fusion, routing, ways of thinking, with their costs."""

from ume_eval.scaling.samples import confidence_pool, mean_pool, medoid, pass_at_k
from ume_eval.scaling.shuffled import Shuffled
from ume_eval.scaling.study import StudyOptions, study

__all__ = [
    "Shuffled",
    "StudyOptions",
    "confidence_pool",
    "mean_pool",
    "medoid",
    "pass_at_k",
    "study",
]
