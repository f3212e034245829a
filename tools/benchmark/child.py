"""A process of a benchmark: it is asked in lines of JSON, and answers each with one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """The process.

    Attributes:
        label: its name, for errors.
    """

    def __init__(
        self, label: str, command: Sequence[str | Path], *, folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start it.

        Args:
            label: its name.
            command: what runs.
            folder: where it runs.
            environment: its variables; None gives it this process's.
        """
        self.label = label
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, *values: Any) -> dict[str, Any]:
        """Its answer to a line.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that it writes.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.label} ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
