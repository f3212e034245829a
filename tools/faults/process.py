"""Running one command in a forked child, with a fault at one of its file calls."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ume_core.hookspecs import BackendSpec
from ume_core.options import LoadOptions
from ume_core.plugins import registry
from ume_core.testing import FakeEmbedder

SHIM = "UME_FAULTS_SHIM"
READ, OPEN, CREATE, WRITE, NAME, SYNC, LOOK = (1 << bit for bit in range(7))
CHANGES = CREATE | WRITE | NAME | SYNC
COUNT, KILL, FAIL, FAIL_ON, TORN, NO_RENAMEAT = range(6)
_SECONDS = 120  # after which a child hangs


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th call below the index directory that is of one of `kinds`."""

    action: int
    kinds: int
    at: int = 0
    errno: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, -9 if it was killed, and all that it printed."""

    status: int
    said: str


def start() -> None:
    """Run this program again under the shim, with everything heavy imported but unused.

    LanceDB's threads do not survive a fork, so the parent must not start them.
    """
    if os.environ.get(SHIM) is None:
        with tempfile.TemporaryDirectory() as folder:
            shim, source = f"{folder}/shim.so", Path(__file__).with_name("shim.c")
            compiler = ["cc", "-shared", "-fPIC", "-O1", "-o", shim, str(source), "-ldl"]
            subprocess.run(compiler, check=True)
            shell = {**os.environ, SHIM: shim, "LD_PRELOAD": shim, "LANCEDB_LOG": "error"}
            again = [sys.executable, "-m", "tools.faults", *sys.argv[1:]]
            raise SystemExit(subprocess.run(again, env=shell, check=False).returncode)
    warnings.simplefilter("ignore")
    import lancedb  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import ume_r1.commands.index
    import ume_r1.commands.search  # noqa: F401

    registry().backends["fake"] = BackendSpec(
        "fake", frozenset({"disc", "gen", "both"}), "tools.faults.process:fake", "hashes"
    )


def fake(location: object, options: LoadOptions, engine_options: None) -> FakeEmbedder:
    """The factory of the engine `fake`."""
    del location, engine_options
    return FakeEmbedder(dimensions=16, options=options)


def run(work: Callable[[], int], directory: Path, fault: Fault | None = None) -> Ended:
    """Fork, arm the fault, work; what it prints goes to a file beside `directory`.

    The last line printed is the number of file calls, where the fault only counts.
    """
    said = directory.parent / "said"
    child = os.fork()
    if child == 0:
        status = 70
        try:
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            shim = ctypes.CDLL(os.environ[SHIM])
            if fault is not None:
                place = str(directory).encode()
                at = ctypes.c_long(fault.at)
                shim.faults_arm(place, fault.action, fault.kinds, fault.errno, at)
            status = work()
            if fault is not None and fault.action == COUNT:
                print(shim.faults_calls())
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Ended(124, "it hangs")
