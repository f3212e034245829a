"""The miniature's visual documents: BEIR tables with pages in the corpus."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from ume_eval.demo.drawing import THINGS, page
from ume_eval.demo.tables import write_set
from ume_eval.tasks import Task

QUERIES, PAGES = 6, 18


def build(data: Path, tasks: Sequence[Task]) -> None:
    """Queries, qrels and corpus of every visual-document task; no folder of pages is needed."""
    for task in tasks:
        if task.modality == "visdoc":
            write_set(data, task.source, _tables(task))


def _tables(task: Task) -> dict[str, list[dict[str, Any]]]:
    keys = [_key(task, n) for n in range(PAGES)]
    queries = [
        {"query-id": n, "query": f"On which page is the {THINGS[n].name}?"} for n in range(QUERIES)
    ]
    qrels: list[dict[str, Any]] = []
    for n in range(QUERIES):
        # As the real graded sets: the right page above other pages of the same document.
        others = (6, 12) if task.graded else ()
        qrels += [{"query-id": n, "corpus-id": keys[n + k], "score": 1 + (k == 6)} for k in others]
        qrels.append({"query-id": n, "corpus-id": keys[n], "score": 3 if task.graded else 1})
        qrels.append({"query-id": n, "corpus-id": keys[(n + 1) % PAGES], "score": 0})
    corpus = [
        {"corpus-id": key, "image": {"bytes": page(THINGS[n], n), "path": None}}
        for n, key in enumerate(keys)
    ]
    return {"queries": queries, "qrels": qrels, "corpus": corpus}


def _key(task: Task, n: int) -> Hashable:
    """Numbers in ViDoRe, file names in VisRAG (some very long), texts in ViDoSeek."""
    if task.parser == "visrag":
        return f"{'chart ' * (10 if n % 2 else 1)}{n}.png"
    return f"report_{n // 6}_page_{n % 6}" if task.meta_task == "OOD" else n
