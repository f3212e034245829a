"""Parsers of video classification and retrieval (VLM2Vec @6e1e1d4 `src/data/eval_dataset/`)."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ume_eval.data.annotations import Annotations, column
from ume_eval.data.frames import video
from ume_eval.data.model import Collector, Entry, Query, TaskData
from ume_eval.tasks import Task


@lru_cache(maxsize=1)
def class_names() -> dict[str, list[str]]:
    """Every class of the closed sets, used raw: with underscores or in CamelCase.

    Source: VLM2Vec @6e1e1d4 `src/data/eval_dataset/video_classification_utils.py`.
    """
    text = (files("ume_eval") / "tasks" / "class_names.json").read_text("utf-8")
    return json.loads(text)


def classes(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Clip to class, among all classes: those met in the rows first, then the fixed list."""
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        label = column(row, "pos_text", task)
        number = pool.add(Entry(label, label.strip()))
        queries.append(Query(_clip_query(task, row, root, len(queries)), {number: 1}))
    for name in class_names().get(task.name, []):
        pool.add(Entry(name, name))
    return TaskData(task, queries, pool.entries)


def ssv2(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Clip to description, among the row's own list, which holds the right one."""
    pool = Collector()
    queries: list[Query] = []
    data = TaskData(task, queries, pool.entries)
    for row in annotations.rows(task):
        names = column(row, "neg_text", task)
        numbers = tuple(pool.add(Entry(n, n.strip())) for n in names)
        right = column(row, "pos_text", task)
        relevant = {numbers[names.index(right)]: 1} if right in names else {}
        if not relevant:
            data.notes["right answer not among the candidates"] += 1
        queries.append(Query(_clip_query(task, row, root, len(queries)), relevant, numbers))
    return data


def _clip_query(task: Task, row: dict[str, Any], root: Path, number: int) -> Entry:
    clip = video(root / str(column(row, "video_id", task)), task.frames)
    return Entry(f"q{number}", (task.query_instruction or "").strip(), clip)


def msrvtt(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Caption to clip."""
    return _retrieval(task, annotations, root, "video_id", "caption")


def msvd(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """First caption to clip."""
    return _retrieval(task, annotations, root, "video_id", "caption")


def didemo(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Caption to clip, which is named by its file."""
    return _retrieval(task, annotations, root, "video", "caption")


def youcook2(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Sentence to clip."""
    return _retrieval(task, annotations, root, "id", "sentence")


def vatex(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """First English caption to clip."""
    return _retrieval(task, annotations, root, "videoID", "enCap")


def _retrieval(
    task: Task, annotations: Annotations, root: Path, name_column: str, text_column: str
) -> TaskData:
    """Text to clip among all clips of the rows; of several captions the first one counts."""
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        name = column(row, name_column, task)
        if name_column == "video":
            name = Path(name).stem
        text = column(row, text_column, task)
        text = text if isinstance(text, str) else text[0]
        clip = video(root / name, task.frames)
        number = pool.add(Entry(name, (task.target_instruction or "").strip(), clip))
        whole = f"{task.query_instruction} {text}".strip()
        queries.append(Query(Entry(f"q{len(queries)}", whole), {number: 1}))
    return TaskData(task, queries, pool.entries)
