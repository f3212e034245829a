"""Loading where torch and we find no place for caches, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BARE = """
import os, pwd, tempfile
for name in {unset}:
    os.environ.pop(name, None)
def gone(uid):
    raise KeyError("getpwuid(): uid not found: 54321")
pwd.getpwuid = gone
"""
READ_ONLY = """
import sys
sys.modules["dill"] = None  # torch imports it where it is installed, and it wants a directory
def nowhere():
    raise FileNotFoundError(2, "No usable temporary directory found")
tempfile.gettempdir = nowhere
"""
USERS = ("USER", "LOGNAME", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
LOAD = """
import ume_r1
print(ume_r1.load("ume-nano", device="cpu", engine="torch").embed(["a dog"]).disc.shape)
"""


@pytest.mark.parametrize(
    "code",
    [
        BARE.format(unset=USERS),
        BARE.format(unset=("HOME", *USERS)) + READ_ONLY,
    ],
    ids=["no user", "neither user nor home nor disk"],
)
def test_a_model_loads_for_a_user_without_name_home_or_disk(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code + LOAD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 192)"


def test_the_variable_of_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from ume_torch.caches import name_compiler_cache

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    name_compiler_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("USER", "somebody")
    name_compiler_cache()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ  # torch names it itself
