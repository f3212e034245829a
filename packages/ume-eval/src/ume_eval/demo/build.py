"""Writes the miniature: one task at least for every parser, ranking, and kind of relevance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_eval.demo import image, video, visdoc
from ume_eval.tasks import DEFAULT_PROTOCOL, Protocol, Task, tasks_of

DEMO_TASKS = (
    "ImageNet-1K", "ChartQA", "MSCOCO_t2i", "WebQA", "MSCOCO_i2t", "NIGHTS", "RefCOCO-Matching",
    "SmthSmthV2", "Breakfast", "MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA",
    "DiDeMo", "MSR-VTT", "MSVD", "VATEX", "YouCook2", "QVHighlight", "MomentSeeker",
    "ViDoRe_arxivqa", "ViDoRe_esg_reports_human_labeled_v2", "VisRAG_ChartQA", "ViDoSeek-page",
    "ViDoSeek-doc",
)  # fmt: skip


def demo_tasks(protocol: Protocol = DEFAULT_PROTOCOL) -> list[Task]:
    """The tasks of the miniature, without the real sets' row counts."""
    return [
        replace(task, queries=None, candidates=None)
        for task in tasks_of(protocol)
        if task.name in DEMO_TASKS
    ]


def build_demo(folder: Path, protocol: Protocol = DEFAULT_PROTOCOL) -> list[Task]:
    """Write media and annotations (about 1 MB); returns the tasks.

    Raises:
        InvalidOption: the folder holds something that is not a miniature.
    """
    mark = folder / ".ume-eval-demo"
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise InvalidOption(f"{folder} is not empty", fix="name a new directory for the miniature")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("made by `ume eval mmeb --demo`; safe to delete\n", "utf-8")
    tasks = demo_tasks(protocol)
    image.build(folder)
    video.build(folder, tasks)
    visdoc.build(folder, tasks)
    return tasks
