"""Starting from a Qwen2-VL that has no tokens of UME-R1, and rates as functions of the step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.tokens import Tokenizer
from ume_train.config.sections import OptimizerSection
from ume_train.models import find_start
from ume_train.optimizers import share_of_peak


def test_a_qwen_gets_the_two_tokens(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "qwen"
    shutil.copytree(checkpoint("qwen2_vl"), base)
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["added_tokens"] = [
        t for t in tokenizer["added_tokens"] if t["content"] not in ("<gen_emb>", "<disc_emb>")
    ]
    path.write_text(json.dumps(tokenizer), "utf-8")
    started = find_start(str(base), tmp_path / "run")
    tokens = Tokenizer(started.tokenizer)
    # The published 2B's ids.
    assert (tokens.special.gen, tokens.special.disc) == (151_657, 151_658)
    weights = load_file(started.base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = weights[name]
        assert torch.equal(table[151_657], table[tokens.added["<|object_ref_end|>"]])
        assert torch.equal(table[151_658], table[tokens.added["<|object_ref_start|>"]])
    assert find_start(str(base), tmp_path / "run").base == started.base  # made once
    assert find_start(str(checkpoint("qwen2_vl")), tmp_path / "x").directory == find_checkpoint(
        checkpoint("qwen2_vl")
    ).directory  # fmt: skip


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rates_are_those_of_transformers(schedule: str) -> None:
    make = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = make[schedule](optimizer, 3, 100)
    settings = OptimizerSection(lr=1.0, warmup=0.03, schedule=schedule)  # type: ignore[arg-type]
    for step in range(100):
        assert share_of_peak(settings, step, 100) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
