"""The clipped objective, as a pure function of log-probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ume_train.config.stages import PolicyLoss


class Objective(NamedTuple):
    """What a pass gives.

    Attributes:
        loss: the sum over rows of their tokens' sum / length; to be divided by the rows of a step.
        kl: k3 of every token, (tokens,), without gradient.
        clipped: whether each token's ratio is beyond its bound, (tokens,).
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def policy_loss(
    log_probs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    settings: PolicyLoss,
    length: int,
) -> Objective:
    """GRPO's loss (arXiv 2402.03300) with Dr. GRPO's constant length (arXiv 2503.20783).

    Per token: -min(r A, clip(r, 1 - low, 1 + high) A) + beta k3, where r is the ratio of the
    probabilities now and at sampling, and k3 = exp(d) - d - 1 of d = log reference - log policy.

    Args:
        log_probs: of the tokens now, (tokens,), with gradient.
        old: when they were sampled.
        reference: of the reference model; None leaves KL out.
        advantages: of each token's row.
        settings: clip bounds and beta.
        length: what sums are divided by.
    """
    ratio = (log_probs - old.detach()).exp()
    bounded = ratio.clamp(1 - settings.epsilon_low, 1 + settings.epsilon_high)
    token = -torch.minimum(ratio * advantages, bounded * advantages)
    kl = torch.zeros_like(log_probs)
    if reference is not None:
        away = reference.detach() - log_probs
        kl = away.exp() - away - 1
        token = token + settings.beta * kl
    beyond = torch.where(
        advantages > 0, ratio > 1 + settings.epsilon_high, ratio < 1 - settings.epsilon_low
    )
    return Objective(token.sum() / length, kl.detach(), beyond.detach())
