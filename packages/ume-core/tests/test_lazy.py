"""Names that are imported when they are used, and the suggestions of errors."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ume_core
from ume_core.errors import did_you_mean


@pytest.mark.parametrize("package", ["ume_core", "ume_r1", "ume_r1.index"])
def test_every_public_name_is_there_and_no_other(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    assert module.__version__ == ume_core.__version__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_importing_the_packages_and_finding_plugins_loads_no_arrays() -> None:
    code = (
        "import sys, ume_core, ume_r1; from ume_core.plugins import registry; registry()\n"
        "print({'numpy', 'PIL', 'pyarrow', 'rich', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("serach", "did you mean 'search'? "),
        ("SEARCH", "did you mean 'search'? "),
        ("onnx", "did you mean 'onnxruntime'? "),
        ("on", ""),
        ("completely different", ""),
    ],
)
def test_what_is_like_a_known_word_is_suggested(word: str, said: str) -> None:
    assert did_you_mean(word, ["search", "onnxruntime", "index"]) == said
