"""Reading MMEB-V2's annotations and media into a neutral form."""

from ume_eval.data.annotations import Annotations
from ume_eval.data.model import Collector, Entry, Media, Page, Query, TaskData
from ume_eval.data.parse import parse

__all__ = ["Annotations", "Collector", "Entry", "Media", "Page", "Query", "TaskData", "parse"]
