"""Parsers of moment retrieval: find the clip among a query's own clips."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ume_eval.data.annotations import Annotations, column
from ume_eval.data.frames import natural_key, video
from ume_eval.data.model import Collector, Entry, Media, Query, TaskData
from ume_eval.tasks import Task

_WITH_PICTURE = "Select the video clip that aligns with the given text and image:"
_WITH_CLIP = "Find the clip that corresponds to the given sentence and video segment:"


def moment_retrieval(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """QVHighlight and Charades-STA: clips are directories beside `query/`.

    The one that begins with `positive` is right. Upstream lists them in the file system's order;
    here the order is natural. A row without a right clip silently kept the label of the row before
    it upstream, which its own clips do not hold: a miss there as here.
    """
    pool = Collector()
    queries: list[Query] = []
    data = TaskData(task, queries, pool.entries)
    for row in annotations.rows(task):
        name = PurePosixPath(column(row, "video_path", task)).stem
        clips = _clip_folders(root / name)
        numbers: list[int] = []
        relevant: dict[int, int] = {}
        for clip in clips:
            media = video(root / name / clip, task.clip_frames or task.frames)
            numbers.append(pool.add(Entry(f"{name}/{clip}", task.target_instruction or "", media)))
            if clip.startswith("positive"):
                relevant = {numbers[-1]: 1}
        if not relevant:
            data.notes["row without a right clip"] += 1
        whole = f"{task.query_instruction} {column(row, 'query', task)}".strip()
        media = video(root / name / "query", task.frames)
        queries.append(Query(Entry(f"q{len(queries)}", whole, media), relevant, tuple(numbers)))
    return data


def _clip_folders(folder: Path) -> list[str]:
    names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return sorted((n for n in names if n != "query"), key=natural_key)


def momentseeker(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Queries of text, picture or clip; several clips may be right; all saved frames are used."""
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        right = [_clip(task, root, e, pool) for e in column(row, "positive_frames", task)]
        wrong = [_clip(task, root, e, pool) for e in column(row, "negative_frames", task)]
        entry = _seeker_query(task, row, root, len(queries))
        queries.append(Query(entry, dict.fromkeys(right, 1), (*right, *wrong)))
    return TaskData(task, queries, pool.entries)


def _clip(task: Task, root: Path, entry: dict[str, Any], pool: Collector) -> int:
    name = _folder_name(column(entry, "output_path", task))
    media = video(root / "video_frames" / name, None)
    return pool.add(Entry(name, task.target_instruction or "", media))


def _seeker_query(task: Task, row: dict[str, Any], root: Path, number: int) -> Entry:
    given = column(row, "input_frames", task) or ""
    lead, media = task.query_instruction, None
    if given.endswith(".mp4"):
        lead = _WITH_CLIP
        media = video(root / "video_frames" / _folder_name(given), None)
    elif given.endswith(".jpg"):
        lead = _WITH_PICTURE
        media = Media("image", (root / f"query_{given}",))
    text = f"{lead} {column(row, 'query', task)}".strip()
    return Entry(f"q{number}", text, media)


def _folder_name(path: str) -> str:
    return path.replace("/", "_").split(".mp4")[0]
