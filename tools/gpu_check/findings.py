"""What a stage found: one entry a check, on disk as soon as the check is done."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class NotRun(Exception):
    """A check that cannot be made here; the text says what is missing."""


class Findings:
    """The checks of one stage.

    A check that raises is noted and the next one is made; one that would begin after the deadline
    is not run.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], seconds: float, say: Callable[[str], None]
    ) -> None:
        """Start with none.

        Args:
            path: the JSON file, written again after every check.
            about: what the file says of the run besides its checks.
            seconds: time after which no check begins.
            say: told every check as it begins and ends.
        """
        self._say = say
        self._path = path
        self._began = time.monotonic()
        self._seconds = seconds
        self.checks: dict[str, dict[str, Any]] = {}
        self._content = {**about, "finished": False, "checks": self.checks}
        self._write()

    def check(self, name: str, work: Callable[[], Any]) -> Any:
        """Make one check.

        Args:
            name: unique within the stage.
            work: returns what was measured, as JSON has it; raises `NotRun`, or anything else
                where the check fails.

        Returns:
            What `work` returned; None where it did not.
        """
        return self._check(name, work, keep=True)

    def passed(self, name: str, work: Callable[[], Any]) -> bool:
        """Make one check that others stand on."""
        self.check(name, work)
        return self.checks[name]["status"] == "ok"

    def load(self, name: str, work: Callable[[], T]) -> T | None:
        """Load what later checks need: a check whose value is not kept in the file."""
        return self._check(name, work, keep=False)

    def _check(self, name: str, work: Callable[[], Any], *, keep: bool) -> Any:
        self._say(f"{name} ...")
        began = time.monotonic()
        entry: dict[str, Any] = {"status": "ok"}
        values = None
        try:
            if began - self._began > self._seconds:
                raise NotRun(f"the stage's {self._seconds:.0f} s were over")
            values = work()
            if keep and values is not None:
                entry["values"] = values
        except NotRun as reason:
            entry |= {"status": "not run", "reason": str(reason)}
        except Exception as error:
            traceback.print_exc()
            entry |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        entry["seconds"] = round(time.monotonic() - began, 2)
        self.checks[name] = entry
        self._write()
        reason = f": {entry['reason']}" if "reason" in entry else ""
        self._say(f"{name}: {entry['status']}, {entry['seconds']} s{reason}")
        return values

    def finish(self) -> None:
        """Say that no check is missing."""
        self._content["finished"] = True
        self._write()

    def _write(self) -> None:
        write(self._path, self._content)


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, path)


def require(*modules: str) -> None:
    """Raise `NotRun` for a module that is not installed."""
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise NotRun(f"{module} is not installed")
