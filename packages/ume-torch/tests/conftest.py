"""Small random checkpoints, and copies of them with something changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ume_nano
from ume_qwen.testing.checkpoints import make_checkpoint

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`mini(kind, tied)`: a checkpoint of the published layout with ume-nano's tokenizer."""
    made: dict[tuple[str, bool], Path] = {}

    def make(kind: str = "qwen2_vl", tied: bool = False) -> Path:
        if (kind, tied) not in made:
            directory = tmp_path_factory.mktemp(kind)
            made[kind, tied] = make_checkpoint(
                directory, kind, gen_bias=2, vocabulary_of=ume_nano.path(), tied=tied
            )
        return made[kind, tied]

    return make


def copy(source: Path, target: Path, *without: str) -> Path:
    """The checkpoint again; its weights are links to the same file."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name in without:
            continue
        if path.suffix == ".safetensors":
            os.link(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
    return target


def edit(path: Path, *drop: str, **new: Any) -> None:
    """Change keys of a JSON file, which need not exist."""
    values = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    values |= new
    for key in drop:
        del values[key]
    path.write_text(json.dumps(values), "utf-8")
