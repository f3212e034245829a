"""One step of SFT and of GRPO at the shape that people tune, SFT against the recipe's loop."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmark.cases import image, text
from tools.gpu_check.findings import Findings, require
from tools.gpu_check.place import Place

# What ume-train needs and the borrowed machine may lack.
NEEDED = ("accelerate", "pydantic", "rich", "yaml")
WORDS = "The picture shows coarse squares of many colours, none of which is anything in particular."


class Pairs:
    """Pictures and texts with answers of about 100 tokens; a function of the step."""

    def __init__(self, pairs: int, tokens: int, repeats: int) -> None:
        from ume_train.data.pairs import Answer

        self.pairs, self.tokens = pairs, tokens
        self.answer = Answer(" ".join([WORDS] * repeats), "coarse squares")

    def batch(self, step: int) -> Any:
        """See `PairSource`."""
        from ume_train.data.pairs import Example, PairBatch

        rng = np.random.default_rng(step)
        sides = [
            [Example(make().item, self.answer) for _ in range(self.pairs)]
            for make in (lambda: image(self.tokens, rng), lambda: text(30, rng))
        ]
        return PairBatch(sides[0], sides[1], gen=True)


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    if not findings.passed("device", place.require_device):
        return
    with tempfile.TemporaryDirectory(dir=place.cache) as folder:
        for name, check in (
            ("SFT: ours", ours), ("SFT: the recipe's loop", recipe), ("GRPO", grpo),
        ):  # fmt: skip
            findings.check(name, partial(check, place, Path(folder) / name.replace(":", "")))


def ours(place: Place, folder: Path) -> dict[str, Any]:
    """`ume train sft recommended`: AdamW, float32 weights, bfloat16 products."""
    return measured(place, sft(place, folder, 2 if place.small else 6))


def grpo(place: Place, folder: Path) -> dict[str, Any]:
    """`ume train grpo recommended`; random weights end no answer, so all have the full length."""
    require(*NEEDED)
    from ume_train.grpo.trainer import GRPO

    class Unsaved(GRPO):
        def save(self) -> None:
            """Nothing: the disk is not what is measured."""

    steps = 2 if place.small else 3
    config: Any = configured(
        place, "grpo", steps,
        f"batch.pairs_per_reward={2 if place.small else 4}", "batch.chunk=4",
        f"rollouts.generations={2 if place.small else 8}",
        f"rollouts.new_tokens={8 if place.small else 128}",
    )  # fmt: skip
    pairs = Pairs(config.batch.pairs_per_reward, 4 if place.small else 64, 1)
    return measured(place, Unsaved(config, folder, pairs, steps))


def sft(place: Place, folder: Path, steps: int) -> Any:
    """A run of SFT that writes no checkpoint."""
    require(*NEEDED)
    from ume_train.sft import SFT

    class Unsaved(SFT):
        def save(self) -> None:
            """Nothing: the disk is not what is measured."""

    count = 2 if place.small else 8
    config: Any = configured(place, "sft", steps, f"batch.pairs={count}", f"batch.chunk={count}",
                             "batch.accumulate=1")  # fmt: skip
    pairs = Pairs(count, 4 if place.small else 64, 1 if place.small else 5)
    return Unsaved(config, folder, pairs, steps)


def configured(place: Place, stage: Any, steps: int, *changes: str) -> Any:
    """The recommended preset at this place."""
    from ume_train.config import read_config

    precision = "float32" if place.small else "bfloat16"
    return read_config(
        stage, "recommended-2b",
        [
            f"model.start={place.checkpoint(place.main)}", f"model.precision={precision}",
            "data.files=[]", "data.drawn=1", f"run.steps={steps}", "run.log_every=1",
            f"run.device={'auto' if place.cuda else 'cpu'}", *changes,
        ],
    )  # fmt: skip


def measured(place: Place, run: Any) -> dict[str, Any]:
    """Seconds of a step after the first, memory, and the first losses."""
    from ume_train.logs import read_log

    peak = place.peak(run.train)
    rows = read_log(run.out)
    if not all(np.isfinite(row["grad_norm"]) for row in rows):
        raise AssertionError(f"gradients are not finite: {[row['grad_norm'] for row in rows]}")
    seconds = [row["seconds"] for row in rows[1:]]
    return {"s a step": round(float(np.median(seconds)), 4), "GB at most": round(peak, 2),
            "first step": rows[0]}  # fmt: skip


def recipe(place: Place, folder: Path) -> dict[str, Any]:
    """Padded batches, full logits, AdamW on everything; the published losses, equal weights."""
    # Its prompts and targets are those of our own preparation.
    prepared = sft(place, folder, 1)
    batches = [
        prepared.prepare(prepared.source.batch(n)).rows for n in range(2 if place.small else 4)
    ]
    del prepared
    plain = place.plain(place.main, dtype="float32")
    model = plain.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds: list[float] = []

    def step(rows: Any) -> None:
        kind = torch.device(place.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=place.cuda):
            loss = recipe_loss(plain, rows)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    peak = place.peak(lambda: seconds.extend(place.seconds(lambda b=b: step(b)) for b in batches))
    return {"s a step": round(float(np.median(seconds[1:])), 4), "GB at most": round(peak, 2),
            "pairs": len(batches[0]) // 2}  # fmt: skip


def recipe_loss(plain: Any, rows: Any) -> Tensor:
    """Next-token loss on the answers and InfoNCE on both kinds of states."""
    inputs = plain.inputs(rows.prompts)
    width = inputs["input_ids"].shape[1]
    labels = torch.full_like(inputs["input_ids"], -100)
    starts = [width - len(p.ids) for p in rows.prompts]
    for row, (start, learned) in enumerate(zip(starts, rows.learned, strict=True)):
        labels[row, start + learned :] = inputs["input_ids"][row, start + learned :]
    output = plain.model(**inputs, output_hidden_states=True)
    logits, states = output.logits, output.hidden_states[-1]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    half = len(starts) // 2
    for indexes in (rows.disc, rows.gen):
        places = [start + index for start, index in zip(starts, indexes, strict=True)]
        vectors = F.normalize(states[range(len(starts)), places].float(), dim=-1)
        logits = vectors[:half] @ vectors[half:].T / 0.02
        own = torch.arange(half, device=logits.device)
        loss = loss + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss
