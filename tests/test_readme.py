"""The READMEs' Python runs as written, in order, from the project's root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = sorted(ROOT.glob("plugins/*/README.md"))


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S)


def test_the_readmes_python_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(ROOT / "README.md")
    assert len(found) >= 3
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "(1, 8, 192)" in shown and "missing.png" in shown


@pytest.mark.parametrize("path", MEMBERS, ids=lambda p: p.parent.name)
def test_a_plugins_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own, as a user's; only the gallery is at the same place."""
    found = blocks(path)
    assert found
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "gallery").symlink_to(ROOT / "tools" / "gallery")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(path), "exec"), namespace)


def test_files_the_readme_names_exist() -> None:
    for name in re.findall(
        r"\]\(((?:packages|plugins|export|tools)[^)]*)\)", (ROOT / "README.md").read_text()
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"tools/gallery/[\w.-]+", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name
