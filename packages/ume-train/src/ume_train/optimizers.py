"""What changes the weights, and its rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ume_train.config.sections import OptimizerSection
from ume_train.muon import Muon


def make_optimizers(
    named: Iterable[tuple[str, Tensor]], settings: OptimizerSection, *, bf16: bool
) -> list[torch.optim.Optimizer]:
    """Over the parameters that train; each group's `peak` is its rate before the schedule."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, weight in named:
        if weight.requires_grad:
            hidden = weight.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
            (matrices if hidden else rest).append(weight)
    decay = settings.weight_decay
    if settings.name == "adamw":
        made: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [*matrices, *rest], lr=settings.lr, betas=settings.betas, weight_decay=decay
            )
        ]
    else:
        dtype = torch.bfloat16 if bf16 else torch.float32
        made = [Muon(matrices, lr=settings.lr, weight_decay=decay, momentum=0.95, dtype=dtype)]
        if rest:
            made.append(
                torch.optim.AdamW(rest, lr=settings.lr_adam, betas=settings.betas, weight_decay=0.0)
            )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def share_of_peak(settings: OptimizerSection, step: int, steps: int) -> float:
    """The rate of step `step` of `steps`, from 0, as a share of its peak.

    As transformers' schedules: linear warm-up over `warmup` of the steps, rounded up, then down to
    0 at `steps`.
    """
    warmup = math.ceil(settings.warmup * steps)
    if settings.schedule == "hold":
        fall = (steps - step) / max(1.0, 0.4 * steps)
        return min(min(1.0, (step + 1) / max(1, warmup)), max(0.0, min(1.0, fall)))
    if step < warmup:
        return step / max(1, warmup)
    gone = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return max(0.0, 1 - gone)
    return 0.5 * (1 + math.cos(math.pi * gone))


def set_rate(optimizers: Iterable[Any], share: float) -> None:
    """Set all groups' rates to a share of their peaks."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
