"""Presets, changes to them, and the table of the published flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ume_core.errors import InvalidOption
from ume_train.config import PRESETS, read_config
from ume_train.config.flags import FLAGS, flags_page

STAGES: Any = ("sft", "grpo")
DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound(stage: Any, name: str) -> None:
    read_config(stage, name)


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.key], ids=lambda f: f"{f.stage}-{f.flag}")
def test_published_presets_do_what_the_table_says_of_each_flag(flag: Any) -> None:
    value: Any = read_config(flag.stage, "published-2b").model_dump(mode="json")
    for key in flag.key.split("."):
        value = value[key]
    assert value == flag.ours


def test_the_page_of_flags_is_the_table() -> None:
    assert (DOCS / "published-flags.md").read_text("utf-8") == flags_page()
    # flags of the two commands, torchrun's own included
    assert [sum(f.stage == s for f in FLAGS) for s in STAGES] == [36, 31]


def test_published_batches_are_those_of_64_gpus() -> None:
    sft: Any = read_config("sft", "published-2b")
    assert (sft.batch.pairs, sft.batch.pairs * sft.batch.accumulate) == (64 * 4, 1024)
    grpo: Any = read_config("grpo", "published-2b")
    assert grpo.batch.pairs_per_reward == 64 * 2 // 8


def test_changes_reach_nested_keys_and_numbers_are_numbers() -> None:
    config: Any = read_config("sft", "tiny", ["optimizer.lr=1e-5", "model.adapter.rank=4"])
    assert (config.optimizer.lr, config.model.adapter.rank) == (1e-5, 4)


def test_all_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"loss\.tempreature") as caught:
        read_config("sft", "tiny", ["loss.tempreature=1", "optimizer.lr=-1"])
    assert "optimizer.lr -1" in str(caught.value)
    assert "did you mean loss.temperature?" in str(caught.value)
    with pytest.raises(InvalidOption, match=r"did you mean optimizer\?"):
        read_config("sft", "tiny", ["optimiser.lr=1"])
    with pytest.raises(InvalidOption, match=r"did you mean run\.steps\?"):
        read_config("sft", "tiny", ["optimizer.steps=1"])
    with pytest.raises(InvalidOption, match="has no YAML value"):
        read_config("sft", "tiny", ["run.steps=[1"])
    with pytest.raises(InvalidOption, match="did you mean recommended-2b"):
        read_config("sft", "recomended-2b")
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path / 'a.yaml'}\n")
    with pytest.raises(InvalidOption, match="extends itself"):
        read_config("sft", str(tmp_path / "a.yaml"))


def test_a_file_changes_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: tiny\nrun:\n  steps: 7\n")
    config = read_config("sft", str(tmp_path / "mine.yaml"))
    assert (config.run.steps, config.run.log_every) == (7, 1)
