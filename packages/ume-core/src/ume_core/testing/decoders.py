"""The processes that decode clips and rare pictures, for tests of what happens to them."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def decoders() -> list[Any]:
    """Those of this process that live, as `psutil.Process`."""
    import psutil

    found: list[Any] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended meanwhile
            decodes = any("media.worker" in word for word in child.cmdline())
            if decodes and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


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

    It returns when all are dead: another one might be given the next file while it dies.

    Raises:
        TimeoutError: none was given any, or one lives on.
    """
    end = time.monotonic() + seconds

    def wait(until: Callable[[], bool]) -> None:
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"the decoders did not die within {seconds:g} s")
            time.sleep(0.01)

    wait(lambda: any(_waiting(process.pid) for process in suspended))
    for process in suspended:
        process.send_signal(signal.SIGSEGV)
        process.send_signal(signal.SIGCONT)
    # Not `Process.wait`, which would take the status that its parent has yet to read.
    wait(lambda: all(_has_ended(process) for process in suspended))


def _waiting(pid: int) -> int:
    """Bytes in a process's standard input that it has not read."""
    import fcntl  # POSIX has it
    import termios

    with Path(f"/proc/{pid}/fd/0").open("rb") as pipe:
        return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def _has_ended(process: Any) -> bool:
    """Whether its parent can read its status, which stays to be read, or has done so."""
    try:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, how) is not None
    except ChildProcessError:
        return True
