"""The arrows between members, and what `import ume_core` costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# member's folder -> its import name and the members it may import; everybody may import itself
ENGINE = {"ume_core", "ume_qwen"}  # what every engine builds on
ARROWS: dict[str, tuple[str, set[str]]] = {
    "packages/ume-core": ("ume_core", set()),
    "packages/ume-qwen": ("ume_qwen", {"ume_core"}),
    "packages/ume-torch": ("ume_torch", ENGINE),
    "packages/ume-nano": ("ume_nano", {"ume_core"}),
    "packages/ume-train": ("ume_train", {*ENGINE, "ume_torch"}),
    "packages/ume-eval": ("ume_eval", {"ume_core"}),
    "packages/ume-r1": ("ume_r1", {"ume_core"}),
    "plugins/ume-onnxruntime": ("ume_onnxruntime", ENGINE),
    "plugins/ume-tensorrt": ("ume_tensorrt", ENGINE),
    "plugins/ume-vllm": ("ume_vllm", ENGINE),
    "plugins/ume-sglang": ("ume_sglang", ENGINE),
    "plugins/ume-sentence-transformers": ("ume_sentence_transformers", ENGINE),
    "plugins/ume-server": ("ume_server", {"ume_core", "ume_r1"}),
    "plugins/ume-ray": ("ume_ray", {"ume_core", "ume_r1"}),
    "plugins/langchain-ume": ("langchain_ume", {"ume_core"}),
    "plugins/llama-index-embeddings-ume": ("llama_index", {"ume_core"}),
    "plugins/haystack-ume": ("haystack_ume", {"ume_core"}),
    "plugins/chroma-ume": ("chroma_ume", {"ume_core"}),
    "plugins/mteb-ume": ("mteb_ume", {"ume_core"}),
    "export": ("ume_export", {*ENGINE, "ume_torch", "ume_onnxruntime", "ume_tensorrt"}),
}
NAMES = {name for name, _ in ARROWS.values()}
HEAVY = {
    "torch", "transformers", "torchvision", "av", "lancedb", "pyarrow", "requests", "httpx",
    "fastapi", "uvicorn", "prometheus_client", "onnxruntime", "sentence_transformers", "tensorrt",
    "cuda", "ray",
}  # fmt: skip


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
    own, allowed = ARROWS[member]
    files = list((ROOT / member / "src" / own).rglob("*.py"))
    assert files
    for path in files:
        ours = {name for name in imports(path, lazy=True) if name in NAMES}
        assert ours <= allowed | {own}, path


def test_the_core_imports_numpy_pillow_and_pluggy_only() -> None:
    allowed = {"ume_core", "numpy", "PIL", "pluggy", "pytest"}  # pytest: the contract kit
    for path in (ROOT / "packages" / "ume-core" / "src").rglob("*.py"):
        if path.name == "download.py":  # behind the extra `http`, imported at the first URL
            continue
        eager = {n for n in imports(path, lazy=False) if n not in sys.stdlib_module_names}
        assert eager <= allowed, path


def test_no_package_imports_tests_or_tools() -> None:
    for path in (*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")):
        assert not imports(path, lazy=True) & {"tests", "tools"}, path


def test_nothing_touches_another_objects_underscored_names() -> None:
    """What tests and measurements need is a constructor argument or a public attribute."""
    reached = re.compile(r"(?<!self)(?<!cls)(?<!super\(\))(?<=[\w)\]])\._[a-z]\w*")
    found: list[str] = []
    for path in _sources():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            code = line.split("#")[0]
            if "torch.ops." in code or "os._exit" in code:  # their public names
                continue
            found += [f"{path}:{number}: {hit}" for hit in reached.findall(code)]
            if re.match(r"\s*from ume_\w+(\.\w+)* import .*(?<!\w)_[a-z]", code):
                found.append(f"{path}:{number}: {code.strip()}")
    assert not found


def _sources() -> list[Path]:
    folders = ("packages", "plugins", "export", "tests", "tools")
    found = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    return [p for p in found if p != Path(__file__).resolve()]


def test_a_docstring_names_one_attribute_an_entry() -> None:
    """Documentation tools show `a: first. b: second.` as the description of `a` alone."""
    entry = re.compile(r"^\s+(?:Args|Attributes):\n((?:.+\n?)+)", re.MULTILINE)
    second = re.compile(r"^\s+\w+(?:, \w+)*: .*[.;] [a-z_]+: ", re.MULTILINE)
    found: list[str] = []
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                for section in entry.findall(ast.get_docstring(node, clean=False) or ""):
                    found += [f"{path}:{node.lineno}: {hit}" for hit in second.findall(section)]
    assert not found


def test_every_member_is_in_the_table() -> None:
    patterns = ("packages/*/pyproject.toml", "plugins/*/pyproject.toml", "export/pyproject.toml")
    found = {str(p.parent.relative_to(ROOT)) for g in patterns for p in ROOT.glob(g)}
    assert found == set(ARROWS)


def test_plugin_entry_modules_and_core_import_nothing_heavy() -> None:
    core = list((ROOT / "packages" / "ume-core" / "src").rglob("*.py"))
    entries = [*ROOT.glob("packages/*/src/*/plugin.py"), *ROOT.glob("plugins/*/src/*/plugin.py")]
    for path in [*core, *entries]:
        assert not imports(path, lazy=False) & HEAVY, path


def test_importing_the_core_loads_no_framework_and_takes_under_300_ms() -> None:
    code = (
        "import sys, time, numpy, PIL.Image\n"
        "began = time.process_time(); import ume_core\n"
        "print(time.process_time() - began)\n"
        "print(sorted({'torch', 'transformers', 'torchvision', 'urllib3'} & set(sys.modules)))\n"
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
