"""Progress on standard error; apart, because rich takes time to import."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ume_r1 import output


class _Lines(Progress):
    """Progress for logs and pipes: a plain line now and then, instead of a bar."""

    seconds = 5.0

    def __init__(self, title: str) -> None:
        super().__init__(disable=True)
        self._title, self._last = title, time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Print how far it is, at most every few seconds."""
        super().update(task_id, **fields)
        now = time.monotonic()
        if now - self._last >= self.seconds:
            self._last = now
            task = next(t for t in self.tasks if t.id == task_id)
            total = f"{task.total:.0f}" if task.total else "?"
            output.tell(f"{self._title}: {task.completed:.0f} of {total}")


def progress_bar(title: str) -> Progress:
    """A bar on standard error, or plain lines where that is no terminal."""
    if output.quiet() or not sys.stderr.isatty():
        return _Lines(title)
    return Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
