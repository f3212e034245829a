"""What is missing, before a model loads, and the commands that bring it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ume_core.errors import InvalidOption, UmeError
from ume_eval.data import Annotations, Page, TaskData, parse
from ume_eval.data.annotations import download
from ume_eval.data.parse import media_root
from ume_eval.data.visdoc import page_name, visrag_name
from ume_eval.tasks import Task
from ume_eval.tasks.task import Modality

MEDIA = "TIGER-Lab/MMEB-V2"
_PAGES_COMPARED = 16
# How TIGER-Lab/MMEB-V2 is unpacked: Qwen3-VL-Embedding @8ce3aab
# `data/evaluation/mmeb_v2/download_data.sh`, for one modality at a time.
_UNPACK: dict[Modality, tuple[str, ...]] = {
    "image": ("cd image-tasks && tar -xzf mmeb_v1.tar.gz",),
    "video": (
        "cd video-tasks/frames && mkdir -p video_cls video_ret",
        "tar -xzf video_cls.tar.gz -C video_cls",
        "tar -xzf video_ret.tar.gz -C video_ret",
        "tar -xzf video_mret.tar.gz",
        "cat video_qa.tar.gz-0{0..4} | tar -xz",
    ),
    "visdoc": ("# nothing to unpack: pages come with the annotations",),
}


@dataclass
class Check:
    """One task.

    Attributes:
        problems: what keeps it from being scored.
        commands: what to run, in order.
        entries: queries and candidates, if it can be read.
    """

    task: Task
    problems: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    entries: int = 0


def preflight(
    tasks: Sequence[Task],
    annotations: Annotations,
    *,
    allow_partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Check]:
    """Check every task.

    Args:
        tasks: what is to be scored.
        annotations: of the data directory.
        allow_partial: accept other row counts than the protocol's; scores then say so.
        progress: called with (done, total) tasks.
    """
    checks: list[Check] = []
    for number, task in enumerate(tasks, 1):
        checks.append(_check(task, annotations, allow_partial))
        if progress is not None:
            progress(number, len(tasks))
    return checks


def require_ready(checks: Sequence[Check]) -> None:
    """Refuse to start while something is missing.

    Raises:
        InvalidOption: lists every problem, and the commands that end them.
    """
    bad = [c for c in checks if c.problems]
    if not bad:
        return
    lines = [f"{c.task.name}: {problem}" for c in bad for problem in c.problems]
    commands = list(dict.fromkeys(command for c in bad for command in c.commands))
    raise InvalidOption(
        f"{len(bad)} of {len(checks)} tasks cannot be scored:\n  " + "\n  ".join(lines),
        fix="run\n  " + "\n  ".join(commands) if commands else "mend what is listed",
    )


def _check(task: Task, annotations: Annotations, allow_partial: bool) -> Check:
    check = Check(task)
    folder = annotations.folder(task.source)
    root = media_root(task, annotations.data)
    # data_path replaces the annotations; pages are in the annotations.
    if task.data_path is None and not folder.is_dir():
        check.problems.append(f"no annotations in {folder}")
        check.commands.append(download(task.source, folder))
    if task.modality != "visdoc" and not root.is_dir():
        check.problems.append(f"no media in {' or '.join(task.roots)}")
        check.commands += media_commands(task.modality, annotations.data)
    if check.problems:
        return check
    try:
        data = parse(task, annotations)
    except UmeError as error:
        check.problems.append(error.cause)
        check.commands.append(f"# {task.name}: {error.fix}")
        return check
    check.entries = len(data.entries)
    _check_rows(check, data, allow_partial)
    _check_files(check, data, annotations.data)
    if task.modality == "visdoc" and root.is_dir():
        _check_pages(check, annotations, root)
    return check


def media_commands(modality: Modality, data: Path) -> list[str]:
    """Commands that bring a modality's media into a data directory."""
    folder = {"image": "image-tasks", "video": "video-tasks/frames", "visdoc": "visdoc-tasks"}
    fetch = (
        f"hf download {MEDIA} --repo-type dataset --include '{folder[modality]}/*' "
        f"--local-dir {data}"
    )
    first, *rest = _UNPACK[modality]
    return [fetch, "(cd " + str(data) + " && " + " && ".join([first, *rest]) + ")"]


def _check_rows(check: Check, data: TaskData, allow_partial: bool) -> None:
    expected, found = data.task.queries, len(data.queries)
    if expected is None or found == expected or allow_partial:
        return
    check.problems.append(f"{found} rows where the protocol has {expected}")
    check.commands.append(
        f"# {data.task.name}: download {data.task.source.repo} again, choose the --protocol it "
        "belongs to, or accept it with --allow-partial"
    )


def _check_files(check: Check, data: TaskData, root: Path) -> None:
    files = {f for e in data.entries if e.media for f in e.media.files if isinstance(f, Path)}
    missing = sorted(f for f in files if not f.is_file())
    if missing:
        check.problems.append(
            f"{len(missing)} of {len(files)} media files are missing, such as {missing[0]}"
        )
        check.commands += media_commands(data.task.modality, root)


def _check_pages(check: Check, annotations: Annotations, root: Path) -> None:
    """Refuse a folder that was filled from another revision of the data set.

    Upstream writes pages once and never again, so that a folder from before the page fix silently
    poisons the fixed set.
    """
    task = check.task
    corpus = annotations.table(task.source, "corpus")
    if "image" not in corpus.features:
        return
    name = visrag_name if task.parser == "visrag" else page_name
    rows = np.unique(np.linspace(0, len(corpus) - 1, _PAGES_COMPARED, dtype=int))
    for row in rows.tolist():
        key = corpus[row]["corpus-id"]
        path = root / name(key)
        if not path.is_file() or not _alike(path.read_bytes(), Page(corpus, row).read()):
            check.problems.append(
                f"{root} holds pages of another revision than {task.source.repo}: "
                f"{path.name} differs"
            )
            check.commands.append(f"rm -r {root}   # pages come with the annotations")
            return


def _alike(ours: bytes, theirs: bytes) -> bool:
    first, second = (Image.open(io.BytesIO(b)).convert("RGB") for b in (ours, theirs))
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))
