"""Random checkpoints whose heads vLLM's CPU kernels take: 32 numbers each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ume_nano
from ume_qwen.testing.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def heads32(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`heads32(kind)`: a checkpoint with ume-nano's tokenizer, made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            directory = tmp_path_factory.mktemp(kind)
            made[kind] = make_checkpoint(
                directory, kind, size="heads32", gen_bias=2, vocabulary_of=ume_nano.path()
            )
        return made[kind]

    return make
