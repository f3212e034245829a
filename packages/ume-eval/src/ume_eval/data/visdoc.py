"""Parsers of visual documents: BEIR tables `queries`, `qrels`, `corpus`, pages in the corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidOption
from ume_eval.data.annotations import Annotations, column
from ume_eval.data.model import Collector, Entry, File, Media, Page, Query, TaskData
from ume_eval.tasks import Task

Name = Callable[[Any], str]


def page_name(key: Any) -> str:
    """File of a page of the `vidore` parser."""
    return f"{key}.png"


def visrag_name(key: Any) -> str:
    """File of a page of the `visrag` parser: long names are cut, with a hash of the whole."""
    stem, suffix = os.path.splitext(key)  # noqa: PTH122 - pathlib cuts other names otherwise
    return f"{stem[:50]}_{hashlib.md5(key.encode()).hexdigest()[:8]}{suffix}"


def vidore(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """ViDoRe, ViDoSeek and MMLongBench."""
    return _beir(task, annotations, root, page_name)


def visrag(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """VisRAG."""
    return _beir(task, annotations, root, visrag_name)


def _beir(task: Task, annotations: Annotations, root: Path, name: Name) -> TaskData:
    """Order of the corpus as upstream: pages that queries name first, then the others."""
    relevance = read_qrels(annotations.table(task.source, "qrels"), task)
    corpus = annotations.table(task.source, "corpus")
    files = page_files(corpus, root, name, task)
    pool = Collector()

    def add(key: Hashable) -> int:
        return pool.add(Entry(key, task.target_instruction or "", Media("image", (files[key],))))

    queries: list[Query] = []
    data = TaskData(task, queries, pool.entries)
    for row in annotations.table(task.source, "queries"):
        grades = relevance.get(column(row, "query-id", task), {})
        missing = [k for k in grades if k not in files]
        if missing:
            raise InvalidOption(
                f"{task.name}: the corpus has no page {missing[0]!r}, which the qrels name",
                fix="download the data set again; its tables are of different revisions",
            )
        if not grades:
            data.notes["query without a relevant page"] += 1
        text = f"{task.query_instruction} {column(row, 'query', task)}".strip()
        entry = Entry(f"q{len(queries)}", text)
        queries.append(Query(entry, {add(key): grade for key, grade in grades.items()}))
    for key in files:
        add(key)
    if task.first_rows is not None:
        del queries[task.first_rows :]
    return data


def read_qrels(table: Any, task: Task) -> dict[Hashable, dict[Hashable, int]]:
    """Grades above 0 by query and page; of several of one pair the highest."""
    found: dict[Hashable, dict[Hashable, int]] = {}
    for row in table:
        grade = int(column(row, "score", task))
        if grade > 0:
            pages = found.setdefault(column(row, "query-id", task), {})
            key = column(row, "corpus-id", task)
            pages[key] = max(pages.get(key, 0), grade)
    return found


def page_files(corpus: Any, root: Path, name: Name, task: Task) -> dict[Hashable, File]:
    """A page's picture by its key: from the media folder if there is one, else from the corpus.

    Raises:
        InvalidOption: the folder lacks pages, or the corpus has no pictures and there is no folder.
    """
    keys = list(corpus["corpus-id"])
    if root.is_dir():
        files: dict[Hashable, File] = {key: root / name(key) for key in keys}
        missing = [f for f in files.values() if isinstance(f, Path) and not f.is_file()]
        if missing:
            raise InvalidOption(
                f"{task.name}: {root} lacks {len(missing)} of {len(keys)} pages, such as "
                f"{missing[0].name}",
                fix="delete the folder: the pages in the annotations are used then",
            )
        return files
    if "image" not in corpus.features:
        raise InvalidOption(
            f"{task.name}: neither {root} nor the corpus has pages",
            fix="unpack visdoc-tasks.images.tar.gz; the preflight prints the commands",
        )
    return {key: Page(corpus, row) for row, key in enumerate(keys)}
