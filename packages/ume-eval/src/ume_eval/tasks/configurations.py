"""Reading the YAML files of VLM2Vec, PLUME and Qwen3-VL-Embedding as they are.

Each top-level key is a task; its values change the roots, frames and rows of ours. What decides a
score (parser, ranking) must agree with the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ume_core.errors import InvalidOption
from ume_eval.tasks.task import Task
from ume_eval.tasks.visdoc import NOT_SCORED

_ROOTS = ("image_root", "frame_root")
# Raw videos and counts of saved frames are not needed once frames are cut; upstream never reads
# num_negative_clips.
_IGNORED = frozenset(
    "video_root clip_root max_frames_saved max_video_frames_saved max_clip_frames_saved"
    " num_negative_clips raw_dataset_abspath dataset_name dataset_split".split()
)
_KNOWN = _IGNORED | {
    *_ROOTS, "dataset_parser", "eval_type", "data_path", "num_frames", "num_video_frames",
    "num_clip_frames", "num_sample_per_subset",
}  # fmt: skip
# Keys that other files use for a task of the table.
_ALIASES = {
    "ViDoSeek-page-fixed": "ViDoSeek-page",
    "MMLongBench-page-fixed": "MMLongBench-page",
    "MomentSeeker_1k8": "MomentSeeker",
    "momentseeker_1k8": "MomentSeeker",
}


def read_configurations(
    paths: Sequence[Path], tasks: Sequence[Task]
) -> tuple[list[Task], list[str]]:
    """The tasks that the files name, with the files' roots and limits.

    Returns:
        The tasks in the table's order, and the names of entries that are not scored.

    Raises:
        InvalidOption: a file cannot be read, or contradicts the table.
    """
    table = {t.name: t for t in tasks}
    found: dict[str, Task] = {}
    skipped: list[str] = []
    for path in paths:
        for name, values in _load(path).items():
            if name in NOT_SCORED:
                skipped.append(name)
                continue
            task = table.get(_ALIASES.get(name, name))
            if task is None:
                raise InvalidOption(
                    f"{path.name}: {name!r} is not a task of MMEB-V2",
                    fix="take the entry out; MMEB-V3's files are not read",
                )
            found[task.name] = _merge(task, values, f"{path.name}: {name}")
    return [found[t.name] for t in tasks if t.name in found], skipped


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidOption(f"cannot read {path}: {error}", fix="check the file") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InvalidOption(
            f"{path} is not a table of tasks", fix="pass an evaluation file such as image.yaml"
        )
    return content


def _merge(task: Task, values: dict[str, Any], where: str) -> Task:
    unknown = sorted(set(values) - _KNOWN)
    if unknown:
        raise InvalidOption(f"{where} has an unknown key {unknown[0]!r}", fix="check its spelling")
    for key, expected in (("dataset_parser", task.parser), ("eval_type", task.ranking)):
        given = values.get(key, expected)
        if given != expected:
            raise InvalidOption(
                f"{where} says {key}: {given}, but MMEB-V2 has {expected}",
                fix=f"set {key}: {expected}; another value is another benchmark",
            )
    root = next((str(values[k]).rstrip("/") for k in _ROOTS if values.get(k)), None)
    counts = [_count(values.get(k), where) for k in ("num_video_frames", "num_frames")]
    frames = next((c for c in counts if c is not None), task.frames)
    return replace(
        task,
        roots=(root,) if root else task.roots,
        frames=frames,
        clip_frames=_count(values.get("num_clip_frames"), where),
        first_rows=_count(values.get("num_sample_per_subset"), where) or task.first_rows,
        data_path=values.get("data_path") or None,
    )


def _count(value: Any, where: str) -> int | None:
    """A number; upstream's files write `None`, which YAML reads as the word."""
    if value in (None, "", "None"):
        return None
    if str(value).isdigit():
        return int(value)
    raise InvalidOption(f"{where}: {value!r} is not a number", fix="write a number or None")
