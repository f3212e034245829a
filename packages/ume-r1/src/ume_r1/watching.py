"""Running something again whenever a folder changed and has come to rest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ume_core.errors import EngineUnavailable

SETTLE_SECONDS = 2.0
_POLL_MS = 500


def check_watch() -> None:
    """Find out whether folders can be watched.

    Raises:
        EngineUnavailable: watchfiles is not installed.
    """
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise EngineUnavailable(
            "--watch needs watchfiles, which is not installed", fix="pip install 'watchfiles>=1.0'"
        ) from error


class Watch:
    """A folder that is watched; each turn of its iteration is a time to look at it.

    The first turn comes at once, when changes are noted already, so that none is lost. The others
    come when something below the folder changed, and nothing that did has for `settle` seconds: a
    file that is being written is waited for. One that rests for longer between two writes is taken
    for done, and again when it changes.
    """

    def __init__(
        self,
        folder: Path,
        leave_out: Path,
        *,
        settle: float = SETTLE_SECONDS,
        stop: threading.Event | None = None,
    ) -> None:
        """Name it.

        Args:
            folder: the folder.
            leave_out: a directory whose changes do not count.
            settle: seconds.
            stop: ends the iteration when it is set.
        """
        self._folder, self._left_out = folder, str(leave_out) + os.sep
        self._settle, self._stop = settle, stop
        self._waiting: dict[str, tuple[int, int] | None] = {}

    def note(self, names: Iterable[str]) -> None:
        """Look again at these files of the folder when they have come to rest."""
        self._waiting |= {str(self._folder / name): None for name in names}

    def __iter__(self) -> Iterator[None]:
        from watchfiles import watch

        found = watch(
            self._folder,
            watch_filter=lambda _, path: self._counts(path),
            stop_event=self._stop,
            rust_timeout=_POLL_MS,
            yield_on_timeout=True,
            raise_interrupt=True,
        )
        rested = time.monotonic()
        for turn, changed in enumerate(found):
            for path in {path for _, path in changed} | set(self._waiting):
                stamp = _stamp(path)
                if path not in self._waiting or stamp != self._waiting[path]:
                    self._waiting[path] = stamp
                    rested = time.monotonic()
            if not turn or (self._waiting and time.monotonic() - rested >= self._settle):
                self._waiting.clear()
                yield

    def _counts(self, path: str) -> bool:
        inside = Path(path).parts[len(self._folder.parts) :]
        return not path.startswith(self._left_out) and not any(p.startswith(".") for p in inside)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
