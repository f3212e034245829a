"""The READMEs' Python runs as written, in order, from the project's root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Those that need a server or a cluster are run by their own tests.
OWN = ("ume-server", "ume-ray")
MEMBERS = sorted(p for p in ROOT.glob("plugins/*/README.md") if p.parent.name not in OWN)
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob(".github/*.md")),
    *sorted(ROOT.glob("packages/ume-r1/docs/*.md")),
]


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S)


def test_the_readmes_python_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = ROOT / "packages" / "ume-r1" / "docs" / "guide.md"
    found = blocks(ROOT / "README.md"), blocks(guide)
    assert len(found[0]) >= 1 and len(found[1]) >= 3
    monkeypatch.chdir(ROOT)
    for page in found:
        namespace: dict[str, object] = {}
        for block in page:
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
    if path.parent.name == "ume-vllm":  # its own tests run it too, where vLLM is
        pytest.importorskip("vllm", reason="not run: vLLM is in .venv-vllm only")
    if path.parent.name == "ume-sglang":
        pytest.importorskip("sglang", reason="not run: SGLang installs with CUDA only")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "gallery").symlink_to(ROOT / "tools" / "gallery")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(path), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_pages_link_to_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for name in re.findall(r"tools/gallery/[\w.-]+", text):
        assert (ROOT / name).exists(), name
