"""What is wrong with how a model is to be loaded is said before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ume_core import InvalidOption, LoadOptions, ModeNotSupported, load
from ume_core.embedder import require_mode


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "float8"},
            "unknown dtype 'float8'.*use one of: auto, float32, bfloat16, float16",
        ),
        ({"dtype": "bfloat"}, "did you mean 'bfloat16'"),
        ({"dtype": "torch.half"}, "did you mean 'float16'"),
        ({"device": "mps"}, "unknown device 'mps'. Fix: use auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": 0}, "unknown device 0"),
        ({"policy": {"files": False}}, r"policy is a dict. Fix: pass ume_core.Policy\("),
        ({"limits": {}}, r"limits is a dict. Fix: pass ume_core.Limits\("),
    ],
    ids=str,
)
def test_names_that_no_engine_knows_are_refused_with_those_allowed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        LoadOptions(**options)
    with pytest.raises(InvalidOption, match=message):
        load("no such model", **options)


@pytest.mark.parametrize("options", [{"device": "cpu"}, "cpu", [("device", "cpu")]], ids=str)
def test_options_that_are_none_are_refused_with_the_spelling(options: Any) -> None:
    with pytest.raises(InvalidOption, match=r"options is a \w+. Fix: pass ume_core.LoadOptions"):
        load("ume-nano", options=options)


def test_a_missing_mode_names_only_engines_that_load_the_model(tmp_path: Path) -> None:
    (tmp_path / "ume_export.json").write_text("{}")  # graphs alone, and no weights
    with pytest.raises(ModeNotSupported, match=f"no installed one loads {tmp_path}"):
        require_mode("gen", frozenset({"disc"}), "an", tmp_path)
