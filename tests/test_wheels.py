"""The members as distributions: built, unpacked, installed without the clone, and run."""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ume_r1 as ume
from tools import version

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
FOLDERS = [path.parent for path in version.projects()[1:]]
VERSION = version.read(ROOT / "pyproject.toml")
READMES = [ROOT / "README.md", *(folder / "README.md" for folder in FOLDERS)]


def distribution(folder: Path) -> str:
    """A member's name as its files spell it."""
    return version.field("name", folder / "pyproject.toml").replace("-", "_")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every member's sdist, and the wheel built from that sdist alone."""
    folder = tmp_path_factory.mktemp("dist")

    def build(member: Path) -> subprocess.CompletedProcess[str]:
        options = ("--quiet", "--no-build-isolation", "--python", sys.executable)
        return run(UV, "build", *options, "--out-dir", folder, member)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(build, FOLDERS):
            assert result.returncode == 0, result.stderr
    return folder


def environment(folder: Path) -> Path:
    """A virtual environment with all third parties of this one, as links, and nothing of ours.

    Installing them would copy torch's 5 GB; uv takes what is linked for installed.

    Returns:
        Its Python.
    """
    made = run(UV, "venv", "--quiet", "--python", sys.executable, folder)
    assert made.returncode == 0, made.stderr
    site = next(folder.glob("lib/python*/site-packages"))
    ours = tuple(f"{distribution(folder)}-" for folder in FOLDERS)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        target = site / entry.name
        if target.exists() or entry.name.startswith(ours) or entry.suffix == ".pth":
            continue
        if entry.suffix == ".dist-info":  # uv does not follow a link to one
            shutil.copytree(entry, target)
        else:
            target.symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def third_parties(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment without any member, for resolving only."""
    return environment(tmp_path_factory.mktemp("third") / "env")


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an environment with the front door and its engine, from the wheels alone."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    python = environment(folder)
    done = run(
        UV, "pip", "install", "--quiet", "--no-config", "--no-index", "--find-links", built,
        "--python", python, f"ume-r1[torch]=={VERSION}", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("member", FOLDERS, ids=lambda folder: folder.name)
def test_a_wheel_and_an_sdist_hold_what_users_and_packagers_need(built: Path, member: Path) -> None:
    name = distribution(member)
    licence = (ROOT / "LICENSE").read_bytes()
    with zipfile.ZipFile(built / f"{name}-{VERSION}-py3-none-any.whl") as wheel:
        files = set(wheel.namelist())
        info = f"{name}-{VERSION}.dist-info"
        assert wheel.read(f"{info}/licenses/LICENSE") == licence
        said = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert said["License-Expression"] == "Apache-2.0" and said["License-File"] == "LICENSE"
    for field in ("Author", "Keywords", "Project-URL", "Classifier", "Summary"):
        assert said[field], field
    assert str(said.get_payload()).strip() == (member / "README.md").read_text("utf-8").strip()
    sources = member / "src"
    code = {str(p.relative_to(sources)) for p in sources.rglob("*.py")}
    typed = {str(p.relative_to(sources)) for p in sources.rglob("py.typed")}
    assert code <= files and len(typed) == 1 and typed <= files
    assert {f.split("/")[0] for f in files} == {next(iter(code)).split("/")[0], info}
    with tarfile.open(built / f"{name}-{VERSION}.tar.gz") as sdist:
        root = f"{name}-{VERSION}"
        packed = sdist.extractfile(f"{root}/LICENSE")
        assert packed is not None and packed.read() == licence
        assert {f"{root}/README.md", f"{root}/pyproject.toml"} <= set(sdist.getnames())


def test_an_index_accepts_what_was_built(built: Path) -> None:
    files = sorted(p for p in built.iterdir() if p.suffix in (".whl", ".gz"))
    assert len(files) == 2 * len(FOLDERS)
    done = run(sys.executable, "-m", "twine", "check", "--strict", *files)
    assert done.returncode == 0, done.stdout


def test_the_front_door_from_wheels_embeds_without_the_clone(
    installed: Path, tmp_path: Path
) -> None:
    done = run(installed / "bin" / "ume", "embed", "--text", "a red apple", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    expected = ume.load("ume-nano").embed(["a red apple"]).disc
    assert expected is not None
    assert np.abs(np.array(row["disc"]) - expected[0]).max() <= 1e-5


def test_nothing_of_ours_in_that_environment_comes_from_the_clone(installed: Path) -> None:
    code = (
        "import json, ume_core, ume_nano, ume_qwen, ume_r1, ume_torch\n"
        "print(json.dumps([m.__file__ for m in (ume_core, ume_nano, ume_qwen, ume_r1, ume_torch)]))"
    )
    done = run(installed / "bin" / "python", "-c", code, cwd=installed)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(installed) for file in json.loads(done.stdout))


def recipes() -> list[tuple[str, str]]:
    """(README, what stands behind `pip install`) of every command in a README."""
    found: list[tuple[str, str]] = []
    for path in READMES:
        text = path.read_text("utf-8")
        fenced = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.S)).splitlines()
        inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for command in (*fenced, *(" ".join(words.split()) for words in inline)):
            _, behind, _arguments = command.partition("pip install ")
            if behind:
                found.append((str(path.parent.relative_to(ROOT)), command))
    return found


@pytest.mark.parametrize(("readme", "command"), recipes())
def test_an_install_line_of_a_readme_resolves_from_a_clone(
    readme: str, command: str, third_parties: Path, tmp_path: Path
) -> None:
    """With pip's rules: no sources, constraints or workspace of uv's; `uv pip` has them."""
    before, _, arguments = command.partition("pip install ")
    rules = [] if before.endswith("uv ") else ["--no-config", "--no-sources"]
    # PyPI's stubs of these can only be asked where NVIDIA's index can be reached.
    overrides = tmp_path / "overrides.txt"
    overrides.write_text(
        "".join(f"tensorrt-cu{n}-libs; python_version < '0'\n" for n in (12, 13)), "utf-8"
    )
    done = run(
        UV, "pip", "install", "--dry-run", *rules, "--overrides", overrides, "--python",
        third_parties, *shlex.split(arguments, comments=True),
    )  # fmt: skip
    if done.returncode and re.search("Failed to fetch|dns err", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, f"{readme}: {command}\n{done.stderr}"


def test_a_recipe_that_lacks_a_member_is_refused(third_parties: Path) -> None:
    """So the test above can fail: this is how ume-onnxruntime's recipe once read."""
    arguments = ("packages/ume-core", "packages/ume-r1", "plugins/ume-onnxruntime[cpu]")
    done = run(
        UV, "pip", "install", "--dry-run", "--no-config", "--no-sources", "--offline",
        "--python", third_parties, *arguments,
    )  # fmt: skip
    assert done.returncode != 0 and "ume-nano" in done.stderr + done.stdout
