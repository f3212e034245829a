"""The arrows between members, and what `import ume_core` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# member -> members it may import; everybody may import itself
ARROWS: dict[str, set[str]] = {
    "ume_core": set(),
    "ume_torch": {"ume_core"},
    "ume_nano": {"ume_core"},
    "ume_train": {"ume_core", "ume_torch"},
    "ume_r1": {"ume_core"},
}
HEAVY = {"torch", "transformers", "torchvision", "av", "lancedb", "pyarrow", "requests", "httpx"}


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Top-level names a file imports; `lazy` counts those inside functions too."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("member", ARROWS)
def test_members_import_only_what_the_design_allows(member: str) -> None:
    source = ROOT / "packages" / member.replace("_", "-") / "src" / member
    files = list(source.rglob("*.py"))
    assert files
    for path in files:
        ours = {name for name in imports(path, lazy=True) if name in ARROWS}
        assert ours <= ARROWS[member] | {member}, path


def test_every_member_is_in_the_table() -> None:
    found = {p.parent.name for p in (ROOT / "packages").glob("*/pyproject.toml")}
    assert found == {name.replace("_", "-") for name in ARROWS}


def test_plugin_entry_modules_and_core_import_nothing_heavy() -> None:
    core = list((ROOT / "packages" / "ume-core" / "src").rglob("*.py"))
    for path in [*core, *(ROOT / "packages").glob("*/src/*/plugin.py")]:
        assert not imports(path, lazy=False) & HEAVY, path


def test_importing_the_core_loads_no_framework_and_takes_under_300_ms() -> None:
    code = (
        "import sys, time, numpy, PIL.Image\n"
        "began = time.process_time(); import ume_core\n"
        "print(time.process_time() - began)\n"
        "print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert {run.stdout.splitlines()[1] for run in runs} == {"[]"}
    # CPU time, best of three: the machine may be busy with other things.
    assert min(float(run.stdout.splitlines()[0]) for run in runs) < 0.3


def test_the_top_level_holds_what_the_design_allows() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    allowed = {"pyproject.toml", "packages", "plugins", "export", "tests", "tools", "README.md"}
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {n for n in names if not n.startswith(".")} <= allowed | {"LICENSE"}
