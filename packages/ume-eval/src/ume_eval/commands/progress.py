"""Progress with the time that remains, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS = 15.0  # between lines where there is no terminal


class Bar:
    """A bar on a terminal, a line now and then elsewhere; silent if it is not this process's turn.

    Args:
        title: what is counted.
        total: how many there are.
        shown: whether to print at all.
    """

    def __init__(self, title: str, total: int, *, shown: bool = True) -> None:
        self._title, self._total, self._shown = title, total, shown
        self._done, self._began = 0, time.monotonic()
        self._last = self._began
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def title(self, text: str) -> None:
        """What is being done now."""
        self._title = text
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def advance(self, count: int) -> None:
        """Count what is done."""
        self._done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
            return
        now = time.monotonic()
        if not self._shown or now - self._last < _SECONDS:
            return
        self._last = now
        left = (now - self._began) / max(1, self._done) * (self._total - self._done)
        print(
            f"{self._title}: {self._done:,} of {self._total:,}, about {_span(left)} left",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _span(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
