"""An engine that nobody here wrote, in a package of its own, through every door."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "packages" / "ume-r1" / "docs" / "architecture.md"
# The page's own code: whoever follows it gets a working engine.
ENGINE, KIT = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The process environment of somebody who installed the engine."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy_engine.py").write_text(ENGINE)
    metadata = site / "toy_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ume]\ntoy = toy_engine\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


def test_it_is_listed_with_its_options_and_embeds_from_the_command_line(
    environment: dict[str, str],
) -> None:
    listed = run(environment, "-m", "ume_r1", "plugins", "toy")
    assert listed.returncode == 0 and "-o width=8\n      length of a vector." in listed.stdout
    asked = ("-m", "ume_r1", "embed", "--model", "a.toy", "--text", "a dog", "-o", "width=4")
    embedded = run(environment, *asked)
    assert embedded.returncode == 0, embedded.stderr
    assert len(json.loads(embedded.stdout)["disc"]) == 4
    wrong = run(environment, *asked, "-o", "depth=3")
    assert wrong.returncode == 2 and "toy engine has no option 'depth'" in wrong.stderr


def test_an_adapter_takes_it_by_the_models_name(environment: dict[str, str]) -> None:
    code = (
        "from langchain_ume import UmeEmbeddings\n"
        "print(len(UmeEmbeddings(model='a.toy', load_options={'width': 5}).embed_query('a dog')))"
    )
    found = run(environment, "-c", code)
    assert found.stdout.strip() == "5", found.stderr


def test_it_passes_the_contract_kit_with_a_model_file_that_is_there(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_toy.py").write_text(KIT)
    (tmp_path / "a.toy").touch()  # other engines leave it to the one that loads files
    monkeypatch.chdir(tmp_path)
    done = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "failed" not in done.stdout
