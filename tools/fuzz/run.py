"""A run in a child process, so that a crash or a hang is a finding and not the end."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tools.fuzz.judge import FAMILIES, Inputs, Verdict, engine, judge

_HANGS = 60.0  # seconds after which an input is given up
_PER_CHILD = 1500  # inputs: the engine's caches fill over the first thousands of shapes


def run(counts: dict[str, int], seed: int) -> Iterator[Verdict]:
    """Verdicts on the first `counts[family]` inputs of every family.

    A child that dies or hangs costs its input, which becomes a finding, and is replaced.
    """
    waiting = [(family, number) for family in FAMILIES for number in range(counts.get(family, 0))]
    while waiting:
        part, done = waiting[:_PER_CHILD], 0
        with tempfile.TemporaryDirectory() as folder, _Child(part, seed, Path(folder)) as child:
            for line in child.lines():
                yield Verdict(**json.loads(line))
                done += 1
        waiting = waiting[done:]
        if done < len(part):
            family, number = waiting.pop(0)
            yield Verdict(family, number, "", "crash", child.end, 0.0, 0)


class _Child:
    """A process that judges a list of inputs."""

    def __init__(self, inputs: list[tuple[str, int]], seed: int, folder: Path) -> None:
        self._plan, self._said = folder / "plan.json", folder / "stderr"
        self._plan.write_text(json.dumps({"seed": seed, "inputs": inputs}))
        self.end = ""

    def __enter__(self) -> _Child:
        command = [sys.executable, "-W", "ignore", "-m", "tools.fuzz.run", str(self._plan)]
        # To a file: native decoders tell standard error of every bad byte.
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True
            )
        return self

    def lines(self) -> Iterator[str]:
        """Its verdicts as they come."""
        assert self._process.stdout is not None
        while True:
            watch = threading.Timer(_HANGS, self._process.kill)
            watch.start()
            line = self._process.stdout.readline()
            watch.cancel()
            if not line:
                break
            yield line
        status = self._process.wait()
        last = self._said.read_text("utf-8", "replace")[-300:]
        self.end = f"the process ended with status {status} (a crash, or {_HANGS:g} s): {last}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def main(plan: Path) -> None:
    """Judge the inputs of a plan, one JSON line each."""
    found = json.loads(plan.read_text())
    inputs, model = Inputs(found["seed"]), engine(plan.parent)
    for family, number in found["inputs"]:
        print(json.dumps(asdict(judge(model, inputs, family, number))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
