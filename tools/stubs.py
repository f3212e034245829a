"""Type stubs of packages that cannot be installed here, written once a version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_UNTYPED = "from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n"


def write_stubs(
    folder: Path, package: str, version: str, what: str, make: Callable[[], str]
) -> None:
    """Write `typings/PACKAGE/__init__.pyi`, unless this version's is there.

    Where it cannot be made the stubs say `Any`, and the reason is printed: nothing is checked then.

    Args:
        folder: where `typings` and a note of the version go.
        package: the module's name.
        version: of the package.
        what: the package and the part of it that is read, for the message.
        make: gives the text; raises OSError or CalledProcessError where it cannot.
    """
    target, stamp = folder / "typings" / package / "__init__.pyi", folder / "version"
    if target.is_file() and stamp.is_file() and stamp.read_text("utf-8") == version:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    try:
        target.write_text(make(), "utf-8")
        stamp.write_text(version, "utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        print(f"{what}: types not checked, it cannot be had here: {said.strip()[-300:]}",
              file=sys.stderr)  # fmt: skip
        target.write_text(_UNTYPED, "utf-8")
