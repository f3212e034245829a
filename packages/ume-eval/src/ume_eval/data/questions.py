"""Parsers of video question answering (VLM2Vec @6e1e1d4 `src/data/eval_dataset/`).

All rank a question's own options; candidates carry no instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_eval.data.annotations import Annotations, column
from ume_eval.data.frames import video
from ume_eval.data.model import Collector, Entry, Query, TaskData
from ume_eval.tasks import Task
from ume_eval.tasks.video import MVBENCH_SUBSETS

_YES_NO = ("yes", "no")


class _Questions:
    """Collects the questions of one task."""

    def __init__(self, task: Task) -> None:
        self.task, self.pool = task, Collector()
        self.data = TaskData(task, [], self.pool.entries)

    def add(
        self,
        folder: Path,
        question: str,
        options: Sequence[str],
        right: int | None,
        texts: Sequence[str] | None = None,
    ) -> None:
        """One question.

        Args:
            folder: directory of the video's frames.
            question: all text after the instruction.
            options: keys of the candidates.
            right: number of the right option; None where none is right.
            texts: candidates' texts, if they differ from the keys.
        """
        shown = options if texts is None else texts
        numbers = tuple(
            self.pool.add(Entry(key, text.strip()))
            for key, text in zip(options, shown, strict=True)
        )
        whole = f"{self.task.query_instruction} {question}".strip()
        entry = Entry(f"q{len(self.data.queries)}", whole, video(folder, self.task.frames))
        if right is None:
            self.data.notes["right answer not among the options"] += 1
        relevant = {} if right is None else {numbers[right]: 1}
        self.data.queries.append(Query(entry, relevant, numbers))


def videomme(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Options come as "A. text"; the answer is a letter."""
    found = _Questions(task)
    for row in annotations.rows(task):
        options = column(row, "options", task)
        question = "\n".join([column(row, "question", task), *options])
        right = "ABCD".index(column(row, "answer", task))
        texts = _bare(options, found)
        found.add(root / column(row, "videoID", task), question, options, right, texts)
    return found.data


def egoschema(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """As Video-MME, with all options in the question's line; the answer is a number."""
    found = _Questions(task)
    for row in annotations.rows(task):
        options = column(row, "option", task)
        question = column(row, "question", task) + " ".join(options)
        right = int(column(row, "answer", task))
        texts = _bare(options, found)
        found.add(root / column(row, "video_idx", task), question, options, right, texts)
    return found.data


def nextqa(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Five options in five columns; the answer is a number."""
    found = _Questions(task)
    for row in annotations.rows(task):
        options = [column(row, f"a{n}", task) for n in range(5)]
        question = _lettered(column(row, "question", task), options)
        right = int(column(row, "answer", task))
        found.add(root / str(column(row, "video", task)), question, options, right)
    return found.data


def mvbench(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Twenty configurations in a row; candidates carry their letters, the answer is a text."""
    found = _Questions(task)
    for subset in MVBENCH_SUBSETS:
        source = replace(task.source, config=subset)
        for row in annotations.table(source, subset):
            options = column(row, "candidates", task)
            answer = column(row, "answer", task)
            # Of equal options upstream takes the last one's letter.
            right = max((n for n, o in enumerate(options) if o == answer), default=None)
            keys = [f"({_letter(n)}) {option}" for n, option in enumerate(options)]
            question = _lettered(column(row, "question", task), options)
            found.add(root / subset / column(row, "video", task), question, keys, right)
    return found.data


def activitynetqa(task: Task, annotations: Annotations, root: Path) -> TaskData:
    """Yes or no."""
    found = _Questions(task)
    for row in annotations.rows(task):
        answer = column(row, "answer", task)
        if answer not in _YES_NO:
            raise InvalidOption(
                f"{task.name}: the answer {answer!r} is neither yes nor no",
                fix="use MMEB-V2's own selection of rows",
            )
        question = column(row, "question", task) + "? (A) yes; (B) no."
        folder = root / f"v_{column(row, 'video_name', task)}"
        found.add(folder, question, _YES_NO, _YES_NO.index(answer))
    return found.data


def _bare(options: Sequence[str], found: _Questions) -> list[str]:
    """Options without "A. " and outer dots and spaces.

    Upstream slices from the first ". "; where there is none that is the last character.
    """
    cut = sum(". " not in option for option in options)
    if cut:
        found.data.notes["options without '. ', cut to one character"] += cut
    return [option[option.find(". ") :].strip(". ") for option in options]


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _lettered(question: str, options: Sequence[str]) -> str:
    lines = [f"({_letter(n)}) {option}" for n, option in enumerate(options)]
    return "\n".join([question, "Options:", *lines]).rstrip()
