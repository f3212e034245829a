"""A fork in the middle of somebody's call, said instead of waited for.

A forked child has the memory of its parent but none of its other threads: a lock that one of them
held stays locked in it for ever. Calls in progress are counted here, and a child that was forked
while there were some refuses to embed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ume_core.errors import EngineUnavailable

SPAWN = "start processes with multiprocessing.get_context('spawn')"


@dataclass
class _Process:
    """Adding to and taking from a set is atomic, so this needs no lock that a fork could break."""

    calls: set[object] = field(default_factory=set[object])
    forked_midway: bool = False


_process = _Process()


def after_fork() -> None:
    """What a forked child inherits: calls that were in progress have no thread there."""
    _process.forked_midway |= bool(_process.calls)
    _process.calls.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=after_fork)


@contextmanager
def call_in_progress() -> Generator[None]:
    """Surrounds whatever takes locks: a call of an engine, or loading one.

    Raises:
        EngineUnavailable: this process was forked while such a call ran.
    """
    if _process.forked_midway:
        raise EngineUnavailable(
            "this process was forked while its parent was embedding, whose locks nobody opens here",
            fix=f"{SPAWN}, or fork while no call runs",
        )
    token = object()
    _process.calls.add(token)
    try:
        yield
    finally:
        _process.calls.discard(token)


def gpu_was_forked() -> EngineUnavailable:
    """The error of using a GPU in a process that was forked after its parent had used it."""
    return EngineUnavailable(
        "this process was forked after its parent had used the GPU, which does not survive it",
        fix=f"{SPAWN}, or load the model only in the children",
    )
