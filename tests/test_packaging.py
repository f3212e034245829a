"""What the members' metadata promises: one version, licence and links, pins for every Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tools import version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PROJECTS = version.projects()[1:]
MEMBERS = {path.parent: tomllib.loads(path.read_text("utf-8"))["project"] for path in PROJECTS}
NAMES = {project["name"] for project in MEMBERS.values()}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# group -> the folders that tools/setup puts into its environment
ENVIRONMENTS = {
    "main": ("packages/*", "plugins/*"),
    "export": (
        "packages/*", "plugins/ume-onnxruntime", "plugins/ume-tensorrt",
        "plugins/ume-sentence-transformers", "export",
    ),
    "floors": ("packages/*", "plugins/*"),
    "gpu": (),
    "vllm": (
        "packages/ume-core", "packages/ume-nano", "packages/ume-qwen", "packages/ume-torch",
        "packages/ume-train", "plugins/ume-onnxruntime", "plugins/ume-vllm",
    ),
}  # fmt: skip
members = pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: MEMBERS[folder]["name"])


def runs_on(folder: Path, python: str) -> bool:
    """Whether a member is meant for this Python; FastAPI's newest asks for 3.11."""
    return folder.name != "ume-server" or python != "3.10"


def requirements(project: dict[str, Any]) -> list[str]:
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(line for lines in extras.values() for line in lines)]


@members
def test_a_member_states_the_one_version_and_pins_others_to_it(folder: Path) -> None:
    project, wanted = MEMBERS[folder], version.read(ROOT / "pyproject.toml")
    assert project["version"] == wanted
    for line in requirements(project):
        name = re.match(r"[\w-]+", line)
        assert name
        if name[0] in NAMES:
            assert line.endswith(f"=={wanted}"), line


def test_setting_the_version_changes_every_member_and_every_pin_and_nothing_else(
    tmp_path: Path,
) -> None:
    for path in version.projects():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text("utf-8"), "utf-8")
    version.write("7.8.9rc1", tmp_path)
    old = version.read(ROOT / "pyproject.toml")
    for before, after in zip(version.projects(), version.projects(tmp_path), strict=True):
        changed = before.read_text("utf-8").replace(f'version = "{old}"', 'version = "7.8.9rc1"')
        for name in NAMES:
            changed = re.sub(rf'"({name}(\[[\w,]+\])?)=={old}"', r'"\1==7.8.9rc1"', changed)
        assert after.read_text("utf-8") == changed


@members
def test_a_member_says_who_made_it_what_it_runs_on_and_where_to_read_more(folder: Path) -> None:
    project = MEMBERS[folder]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["authors"] and project["keywords"] and project["urls"]
    pythons = [python for python in PYTHONS if runs_on(folder, python)]
    for python in pythons:
        assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    assert project["requires-python"] == f">={pythons[0]}"


@members
def test_a_members_readme_has_no_link_that_breaks_outside_the_clone(folder: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text("utf-8"))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_no_message_tells_to_install_a_name_that_is_not_published() -> None:
    """A name nobody owns yet fails today, and tomorrow may be somebody else's."""
    bare = re.compile(rf"(?<![\w/.-])({'|'.join(sorted(NAMES, key=len, reverse=True))})\b")
    found: list[str] = []
    for folder in MEMBERS:
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    _, _, command = node.value.partition("pip install")
                    found += [f"{path}:{node.lineno}: {name}" for name in bare.findall(command)]
    for path in ROOT.glob("**/README.md"):
        for line in path.read_text("utf-8").splitlines():
            _, _, command = line.partition("pip install")
            found += [f"{path}: {name}" for name in bare.findall(command.split("`")[0])]
    assert not found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_of_every_environment_resolve_to_wheels(python: str) -> None:
    # vLLM is for 3.11 and newer.
    groups = [g for g in ENVIRONMENTS if (g, python) != ("vllm", "3.10")]
    with ThreadPoolExecutor(len(groups)) as pool:
        results = list(pool.map(lambda group: resolve(group, python), groups))
    said = "\n".join(result.stderr for result in results)
    if any(result.returncode for result in results) and re.search("Failed to fetch|dns err", said):
        pytest.skip("the package index cannot be reached")
    for group, result in zip(groups, results, strict=True):
        assert result.returncode == 0, f"{group}: {result.stderr}"
        torch = {"gpu": "2.11.0", "vllm": "2.13.0"}.get(group, "2.12.1")
        assert f"torch=={torch}" in result.stdout.splitlines()


def resolve(group: str, python: str) -> subprocess.CompletedProcess[str]:
    """Ask uv what `tools/setup GROUP` would install on a Python, without that Python."""
    folders = [folder for glob in ENVIRONMENTS[group] for folder in sorted(ROOT.glob(glob))]
    more = {
        "floors": ["--resolution", "lowest-direct"],
        "vllm": ["--override", "plugins/ume-vllm/cpu-overrides.txt"],
    }.get(group, [])
    # A library of vLLM's has no wheel for older systems.
    platform = "x86_64-manylinux_2_31" if group == "vllm" else "linux"
    return subprocess.run(
        [
            UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python",
            sys.executable, "--python-version", python, "--python-platform", platform,
            "--only-binary", ":all:", *more, "--group", f"pyproject.toml:{group}", "-",
        ],
        input="".join(
            f"-e {folder}\n"
            for folder in folders
            if (folder / "src").is_dir() and runs_on(folder, python)
        ),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
