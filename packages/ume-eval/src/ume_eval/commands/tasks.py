"""`ume eval tasks`."""

from __future__ import annotations

import argparse

from ume_eval.tasks import DEFAULT_PROTOCOL, PROTOCOLS, choose, tasks_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which tasks, under which protocol."""
    parser.add_argument("--protocol", default=DEFAULT_PROTOCOL, choices=PROTOCOLS)
    parser.add_argument("tasks", nargs="*", help="names, meta-tasks or modalities (default: all)")


def run(args: argparse.Namespace) -> int:
    """Print a line for each task."""
    for task in choose(tasks_of(args.protocol), args.tasks):
        config = f":{task.source.config}" if task.source.config else ""
        rows = f"{task.queries or '?'}/{task.candidates or '?'}"
        pin = task.source.revision or "unpinned"
        print(
            f"{task.meta_task:7} {task.name:45} {task.ranking:6} {rows:>10} {task.metric:14} "
            f"{task.source.repo}{config} ({task.source.split}, {pin})"
        )
    return 0
