"""The processes that decode clips and rare pictures, for tests of what happens to them."""

from __future__ import annotations

import signal
import struct
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
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


def crash(suspended: Sequence[Any], seconds: float = 30.0) -> None:
    """Let suspended decoders die of a bad address, as soon as one of them has been given bytes.

    Raises:
        TimeoutError: none was given any.
    """
    end = time.monotonic() + seconds
    while not any(_waiting(process.pid) for process in suspended):
        if time.monotonic() > end:
            raise TimeoutError(f"no decoder was given anything within {seconds:g} s")
        time.sleep(0.01)
    for process in suspended:
        process.send_signal(signal.SIGSEGV)
        process.send_signal(signal.SIGCONT)


def _waiting(pid: int) -> int:
    """Bytes in a process's standard input that it has not read."""
    import fcntl  # POSIX has it
    import termios

    with Path(f"/proc/{pid}/fd/0").open("rb") as pipe:
        return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
