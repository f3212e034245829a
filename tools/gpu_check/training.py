"""One step of SFT at the shape that people tune, against the recipe's loop."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmark.cases import image, text
from tools.gpu_check.findings import Findings, NotRun
from tools.gpu_check.place import Place
from ume_train.data import Answer, Example, PairBatch
from ume_train.losses import info_nce
from ume_train.sft import Prepared, SFTConfig, Trainer

WORDS = "The picture shows coarse squares of many colours, none of which is anything in particular."


class Pairs:
    """Pictures and texts with answers of about 100 tokens; a function of the step."""

    def __init__(self, pairs: int, tokens: int, repeats: int) -> None:
        self.pairs, self.tokens = pairs, tokens
        self.answer = Answer(" ".join([WORDS] * repeats), "coarse squares")

    def batch(self, step: int) -> PairBatch:
        """See `PairSource`."""
        rng = np.random.default_rng(step)
        sides = [
            [Example(make().item, self.answer) for _ in range(self.pairs)]
            for make in (lambda: image(self.tokens, rng), lambda: text(30, rng))
        ]
        return PairBatch(sides[0], sides[1], gen=True)


class Enough(Exception):
    """Ends a run without saving it."""


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    if not findings.passed("device", place.require_device):
        return
    pairs = Pairs(2, 4, 1) if place.small else Pairs(8, 64, 5)
    with tempfile.TemporaryDirectory(dir=place.cache) as folder:
        run_folder = Path(folder)
        (run_folder / "model").mkdir()
        for path in place.checkpoint(place.main).iterdir():
            if path.name != "complete":
                shutil.copyfile(path, run_folder / "model" / path.name)
        findings.check("SFT: ours", lambda: ours(place, run_folder, pairs))
        findings.check("SFT: the recipe's loop", lambda: recipe(place, run_folder, pairs))
    findings.check("GRPO", grpo)


def ours(place: Place, folder: Path, pairs: Pairs) -> dict[str, Any]:
    """`ume_train.sft.Trainer`: Muon and AdamW, float32 weights, bfloat16 products."""
    rows: list[dict[str, Any]] = []
    steps = 2 if place.small else 6

    def seen(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) == steps:
            raise Enough

    def train() -> None:
        config = SFTConfig(steps=1000, log_every=1, warmup=1, device=place.device)
        with suppress(Enough):
            Trainer(folder, pairs, config).train(on_log=seen)

    peak = place.peak(train)
    if not all(np.isfinite(row["grad"]) for row in rows):
        raise AssertionError(f"gradients are not finite: {[row['grad'] for row in rows]}")
    seconds = [row["seconds"] for row in rows[1:]]  # the first step warms up
    return {"s a step": round(float(np.median(seconds)), 4), "GB at most": round(peak, 2),
            "pairs": pairs.pairs, "first losses": rows[0]}  # fmt: skip


def recipe(place: Place, folder: Path, pairs: Pairs) -> dict[str, Any]:
    """Padded batches, full logits, AdamW on everything; the published losses, equal weights."""
    # Its prompts and targets are those of our own preparation.
    prepare = Trainer(folder, pairs, SFTConfig(steps=1, device="cpu")).prepare
    batches = [prepare(pairs.batch(n)) for n in range(2 if place.small else 4)]
    plain = place.plain(place.main, dtype="float32")
    model = plain.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds: list[float] = []

    def step(batch: Prepared) -> None:
        kind = torch.device(place.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=place.cuda):
            loss = recipe_loss(plain, batch)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    peak = place.peak(lambda: seconds.extend(place.seconds(lambda b=b: step(b)) for b in batches))
    return {"s a step": round(float(np.median(seconds[1:])), 4), "GB at most": round(peak, 2),
            "pairs": pairs.pairs}  # fmt: skip


def recipe_loss(plain: Any, batch: Prepared) -> Tensor:
    """Next-token loss on the answers and InfoNCE on both kinds of states."""
    inputs = plain.inputs(batch.prompts)
    width = inputs["input_ids"].shape[1]
    labels = torch.full_like(inputs["input_ids"], -100)
    starts = [width - len(p.ids) for p in batch.prompts]
    for row, (start, learned) in enumerate(zip(starts, batch.learn_from, strict=True)):
        labels[row, start + learned :] = inputs["input_ids"][row, start + learned :]
    output = plain.model(**inputs, output_hidden_states=True)
    logits, states = output.logits, output.hidden_states[-1]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    rows, half = range(len(starts)), len(starts) // 2
    discs = [start + p.disc_index for start, p in zip(starts, batch.prompts, strict=True)]
    gens = [start + index for start, index in zip(starts, batch.gen_index, strict=True)]
    for places in (discs, gens):
        wanted = states[rows, places]
        loss = loss + info_nce(wanted[:half], wanted[half:], 0.02)
    return loss


def grpo() -> None:
    """Not part of ume-train yet."""
    raise NotRun("ume-train has no GRPO")
