"""The three protocols that share the name MMEB-V2, as changes to one table.

| protocol | used by | MomentSeeker | page sets | `vidore` instructions |
|---|---|---|---|---|
| v2.0 | paper tables, UME-R1's rows | 1,800 rows, 413 pairs twice | labels off by one | none |
| v2.0.1 | VLM2Vec's re-run of 2025-08 | 1,602 rows | labels off by one | none |
| v2.1 | the leaderboard | 1,602 rows | fixed | query and page |

Commits of TIGER-AI-Lab/VLM2Vec: 6ac33bb (v2.0), b3a3c4f (v2.0.1), 55b056a (v2.1, which changed
pages and instructions at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from ume_core.errors import InvalidOption
from ume_eval.tasks.image import IMAGE_TASKS
from ume_eval.tasks.task import Source, Task
from ume_eval.tasks.video import VIDEO_TASKS
from ume_eval.tasks.visdoc import VISDOC_TASKS

Protocol: TypeAlias = Literal["v2.0", "v2.0.1", "v2.1"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
DEFAULT_PROTOCOL: Protocol = "v2.1"
COMMITS: dict[Protocol, str] = {"v2.0": "6ac33bb", "v2.0.1": "b3a3c4f", "v2.1": "55b056a"}

_OLD_PAGES = {
    "ViDoSeek-page": Source("VLM2Vec/ViDoSeek-page"),
    "MMLongBench-page": Source("VLM2Vec/MMLongBench"),
}


def tasks_of(protocol: Protocol = DEFAULT_PROTOCOL) -> list[Task]:
    """The 78 tasks under a protocol, in the order of the published tables.

    Raises:
        InvalidOption: no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise InvalidOption(
            f"unknown protocol {protocol!r}", fix=f"use one of: {', '.join(PROTOCOLS)}"
        )
    return [_under(task, protocol) for task in (*IMAGE_TASKS, *VIDEO_TASKS, *VISDOC_TASKS)]


def _under(task: Task, protocol: Protocol) -> Task:
    if protocol == "v2.1":
        return task
    if task.parser == "vidore":
        task = task.with_instructions("", "")
    if task.name in _OLD_PAGES:
        return replace(task, source=_OLD_PAGES[task.name], leaderboard_name="")
    if task.name == "MomentSeeker" and protocol == "v2.0":
        return replace(task, source=Source("VLM2Vec/MomentSeeker_1k8"), queries=1800)
    return task


def choose(tasks: Sequence[Task], wanted: Sequence[str]) -> list[Task]:
    """Tasks by name, meta-task or modality; all if nothing is named.

    Raises:
        InvalidOption: a name fits nothing.
    """
    if not wanted:
        return list(tasks)
    chosen: set[str] = set()
    for name in wanted:
        found = {t.name for t in tasks if name in (t.name, t.key, t.meta_task, t.modality)}
        if not found:
            groups = sorted({t.meta_task for t in tasks} | {t.modality for t in tasks})
            raise InvalidOption(
                f"no task is called {name!r}",
                fix=f"use a task's name (`ume eval tasks` lists them) or one of "
                f"{', '.join(groups)}",
            )
        chosen |= found
    return [t for t in tasks if t.name in chosen]
