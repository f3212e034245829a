"""The version that all members share: `tools/version` prints it, `tools/version 0.2.0` sets it.

pyproject.toml's is the one that counts. Members repeat it, and pin each other to it, so that pip
and uv read a member's metadata without building it; a test compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def projects(root: Path = ROOT) -> list[Path]:
    """Every pyproject.toml that states the version, the root's first."""
    patterns = ("packages/*/pyproject.toml", "plugins/*/pyproject.toml", "export/pyproject.toml")
    return [root / "pyproject.toml", *(p for g in patterns for p in sorted(root.glob(g)))]


def read(path: Path) -> str:
    """The version a pyproject.toml states."""
    return field("version", path)


def write(version: str, root: Path = ROOT) -> None:
    """Set the version of every member, and their pins of each other."""
    paths = projects(root)
    names = "|".join(field("name", path) for path in paths[1:])
    for path in paths:
        text = re.sub(
            r'^version = ".+"$', f'version = "{version}"', path.read_text("utf-8"), flags=re.M
        )
        text = re.sub(rf'"((?:{names})(?:\[[\w,-]+\])?)==[^"]+"', rf'"\1=={version}"', text)
        path.write_text(text, "utf-8")


def field(name: str, path: Path) -> str:
    """A text field of the project table."""
    found = re.search(rf'^{name} = "(.+?)"', path.read_text("utf-8"), re.M)
    assert found, path
    return found[1]


def main(arguments: list[str]) -> int:
    """Print or set the version."""
    if len(arguments) > 1 or (arguments and not re.fullmatch(r"\d+(\.\d+)*\w*", arguments[0])):
        print("usage: tools/version [NEW]", file=sys.stderr)
        return 2
    if arguments:
        write(arguments[0])
    print(read(ROOT / "pyproject.toml"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
