"""A few dozen cases of the fault tool; its reports hold thousands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None,
    reason="the fault tool needs Linux and a C compiler for its LD_PRELOAD shim",
)
def test_kills_errors_and_damage_leave_no_index_wrong() -> None:
    command = [sys.executable, "-m", "tools.faults", "--every", "50"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^(\d+) cases .*, 0 wrong: (.*)", ended.stdout, re.MULTILINE)
    assert found is not None and int(found[1]) >= 36
    groups = ("kill", "kill in a write", "kill, twice", "error", "error in the folder", "damage")
    assert all(repr(group) in found[2] for group in groups)
