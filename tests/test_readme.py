"""The README's Python runs as written, in order, from the project's root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)


def test_the_readmes_python_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(BLOCKS) >= 3
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "(1, 8, 192)" in shown and "missing.png" in shown


def test_files_the_readme_names_exist() -> None:
    for name in re.findall(r"\]\(((?:packages|tools)[^)]*)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"tools/gallery/[\w.-]+", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name
