"""The miniature's video tasks: frames as upstream's archives hold them, columns as in its sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ume_eval.demo.drawing import THINGS, Thing, clip, draw
from ume_eval.demo.tables import write_set
from ume_eval.tasks import Task
from ume_eval.tasks.video import MVBENCH_SUBSETS

Row = dict[str, Any]
ROWS = 4
FRAMES = 10  # more than the eight that are taken
_NAMES = [t.name for t in THINGS]


def build(data: Path, tasks: Sequence[Task]) -> None:
    """Frames below video-tasks/, rows below annotations/."""
    for task in tasks:
        if task.modality != "video":
            continue
        root = data / task.roots[0]
        if task.name == "MVBench":
            _mvbench(data, task, root)
            continue
        rows = [_row(task, root, n) for n in range(ROWS)]
        write_set(data, replace(task.source, config=None), {task.source.config or "default": rows})


def _row(task: Task, root: Path, n: int) -> Row:
    thing = THINGS[5 * n]
    name = f"clip{n}"
    if task.parser == "moment_retrieval":
        return _moments(root, name, n)
    if task.parser == "momentseeker":
        return _seeker(root, n)
    save_frames(root / (f"v_{name}" if task.name == "ActivityNetQA" else name), thing)
    caption = f"A {thing.name} moves to the right"
    question, options = "What moves to the right?", [t.name for t in _options(n)]
    lettered = [f"{'ABCDE'[k]}. {o}." for k, o in enumerate(options)]
    right = options.index(thing.name)
    rows: dict[str, Row] = {
        "video_classification": {"video_id": name, "pos_text": _breakfast(n)},
        "ssv2": {"video_id": n, "pos_text": thing.name, "neg_text": _NAMES[:18]},
        "msrvtt": {"video_id": name, "video": f"{name}.mp4", "caption": caption},
        "msvd": {"video_id": name, "video": f"{name}.avi", "caption": [caption, "another"]},
        "didemo": {"video": f"video/{name}.mp4", "caption": caption},
        "youcook2": {"id": name, "video_path": f"val/{name}.mp4", "sentence": caption},
        "vatex": {"videoID": name, "enCap": [caption, "another"]},
        "videomme": {"videoID": name, "question": question, "options": lettered[:4],
                     "answer": "ABCD"[right], "question_id": str(n)},
        "nextqa": {"video": n, "question": question, "answer": right, "qid": n,
                   **{f"a{k}": o for k, o in enumerate(options)}},
        "egoschema": {"video_idx": name, "question": question, "option": lettered,
                      "answer": str(right), "question_idx": n},
        "activitynetqa": {"video_name": name, "question": f"is there a {thing.shape}",
                          "answer": "yes" if n % 2 else "no", "question_id": str(n)},
    }  # fmt: skip
    if task.parser in ("ssv2", "nextqa"):
        save_frames(root / str(n), thing)
    return rows[task.parser]


def _options(n: int) -> list[Thing]:
    """Five things, the right one among the first four."""
    others = [THINGS[(5 * n + k) % len(THINGS)] for k in (3, 9, 14, 20)]
    return [*others[: n % 4], THINGS[5 * n], *others[n % 4 :]]


def _breakfast(n: int) -> str:
    return ("coffee", "milk", "tea", "salad")[n]


def save_frames(folder: Path, thing: Thing, count: int = FRAMES) -> None:
    """Numbered without leading zeros, so that natural and plain order differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(clip(thing, count)):
        frame.save(folder / f"frame_{number}.jpg", quality=92)


def _moments(root: Path, name: str, n: int) -> Row:
    things = _options(n)
    save_frames(root / name / "query", THINGS[5 * n])
    for k, thing in enumerate(things):
        lead = "positive" if thing == THINGS[5 * n] else f"negative_{k}"
        save_frames(root / name / lead, thing, 8)
    return {"query": f"a {THINGS[5 * n].name} appears", "video_path": f"videos/{name}.mp4"}


def _seeker(root: Path, n: int) -> Row:
    """A text, a picture and a clip in turn as query; one row has two right clips."""
    thing = THINGS[5 * n]
    right = [f"set/{n}_{k}.mp4" for k in range(2 if n == 3 else 1)]
    wrong = [f"set/{n}_wrong{k}.mp4" for k in range(4)]
    for k, path in enumerate(right):
        save_frames(root / "video_frames" / path.replace("/", "_")[:-4], thing, 3 + k)
    for k, path in enumerate(wrong):
        other = THINGS[(5 * n + 7 + k) % len(THINGS)]
        save_frames(root / "video_frames" / path.replace("/", "_")[:-4], other, 3)
    given = ("", f"{n}.jpg", f"query/{n}.mp4", "")[n]
    if given.endswith(".jpg"):
        draw(thing).save(root / f"query_{given}")
    elif given.endswith(".mp4"):
        save_frames(root / "video_frames" / given.replace("/", "_")[:-4], thing, 4)
    return {
        "query": f"where does the {thing.name} move", "input_frames": given,
        "positive_frames": [{"output_path": p} for p in right],
        "negative_frames": [{"output_path": p} for p in wrong],
    }  # fmt: skip


def _mvbench(data: Path, task: Task, root: Path) -> None:
    """One row in each of its configurations; one answer is not among its options."""
    configs: dict[str, list[Row]] = {}
    for n, subset in enumerate(MVBENCH_SUBSETS):
        thing = THINGS[n]
        save_frames(root / subset / f"{n}.mp4", thing, 8)
        options = [thing.name, THINGS[(n + 9) % 24].name, THINGS[(n + 14) % 24].name]
        answer = "something else" if n == 19 else thing.name
        configs[subset] = [
            {"video": f"{n}.mp4", "question": "What moves?", "candidates": options,
             "answer": answer}
        ]  # fmt: skip
    write_set(data, task.source, configs)
