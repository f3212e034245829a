"""The processes that decode clips and rare pictures, for tests of what happens to them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


def decoders() -> list[Any]:
    """Those of this process that live, as `psutil.Process`."""
    import psutil

    live = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [c for c in live if any("media.worker" in word for word in c.cmdline())]


@contextmanager
def suspended_decoders() -> Generator[list[Any]]:
    """Those that live, doing nothing until they are told to go on; killed at the end.

    Raises:
        AssertionError: there is none.
    """
    found = decoders()
    assert found, "no process decodes"
    for process in found:
        process.suspend()
    try:
        yield found
    finally:
        for process in found:
            if process.is_running():
                process.kill()
