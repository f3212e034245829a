"""Parsers of the image tasks. All rows: ziyjiang/MMEB_Test_Instruct; the first target is right.

Texts are assembled as by VLM2Vec @6e1e1d4 `src/data/eval_dataset/image_*.py`, whose order of
replacing and stripping differs between parsers; UME-R1's collator then drops media placeholders
and strips the ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ume_eval.data.annotations import Annotations, column
from ume_eval.data.model import Collector, Entry, Media, Query, TaskData
from ume_eval.tasks import Task

PLACEHOLDER = "<|image_1|>"


def texts(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Picture (and text) to label or caption: `image_cls`, `image_i2t`."""
    return _text_targets(task, annotations, root, strip=False)


def questions(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Picture and question to answer: `image_qa`."""
    return _text_targets(task, annotations, root, strip=True)


def _text_targets(task: Task, annotations: Annotations, root: Path, *, strip: bool) -> TaskData:
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        entry = _query(row, task, root, len(queries), strip=strip)
        targets = column(row, "tgt_text", task)
        numbers = tuple(pool.add(Entry(t, t.strip())) for t in targets)
        queries.append(Query(entry, {numbers[0]: 1}, numbers))
    return TaskData(task, queries, pool.entries)


def pictures(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Text to picture: `image_t2i`. Two captions of one picture are one candidate, as upstream."""
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        lead = _without_placeholder(column(row, "qry_inst", task))
        text = f"{lead} {column(row, 'qry_text', task)}".strip()
        paths = column(row, "tgt_img_path", task)
        numbers = tuple(
            pool.add(Entry(path, target, _picture(root, path)))
            for path, target in zip(paths, _targets(row, task), strict=True)
        )
        queries.append(Query(Entry(f"q{len(queries)}", text), {numbers[0]: 1}, numbers))
    return TaskData(task, queries, pool.entries)


def pairs(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Picture (and text) to picture: `image_i2i_vg`; captions are part of a candidate's key."""
    pool = Collector()
    queries: list[Query] = []
    for row in annotations.rows(task):
        entry = _query(row, task, root, len(queries), strip=True)
        paths, captions = column(row, "tgt_img_path", task), column(row, "tgt_text", task)
        numbers = tuple(
            pool.add(Entry(path + ":" + caption.strip('"'), target, _picture(root, path)))
            for path, caption, target in zip(paths, captions, _targets(row, task), strict=True)
        )
        queries.append(Query(entry, {numbers[0]: 1}, numbers))
    return TaskData(task, queries, pool.entries)


def _query(row: dict[str, Any], task: Task, root: Path, number: int, *, strip: bool) -> Entry:
    lead = _without_placeholder(column(row, "qry_inst", task))
    if strip:
        lead = lead.strip()
    text = column(row, "qry_text", task)
    whole = f"{lead} {text}" if text else lead
    picture = _picture(root, column(row, "qry_img_path", task))
    return Entry(f"q{number}", _one_break(whole), picture)


def _targets(row: dict[str, Any], task: Task) -> list[str]:
    """A row's candidate texts: its instruction, and captions if the first one is not blank."""
    captions = column(row, "tgt_text", task)
    lead = _without_placeholder(column(row, "tgt_inst", task))
    if captions[0].strip():
        return [_one_break(f"{lead} {caption}") for caption in captions]
    return [_one_break(lead)] * len(column(row, "tgt_img_path", task))


def _one_break(text: str) -> str:
    """Upstream takes the space before a line break away, to stay consistent with MMEB-V1."""
    return text.replace(" \n", "\n").strip()


def _without_placeholder(text: str) -> str:
    return text.replace(PLACEHOLDER, "")


def _picture(root: Path, path: str) -> Media:
    return Media("image", (root / path,))
