"""The parts of a rollout's reward, as pure functions of texts and vectors.

Source: UME-R1 `src/r1-train/src/open_r1/{trainer/grpo_trainer.py,vlm_modules/qwen_module.py}`.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["top_share", "margin_soft"]
# Upstream's: anywhere in the answer, and no closing tag is asked for.
_FOUND = re.compile(r"<think>.*?</think>.*?\s*<answer>.*?\s*<gen_emb>", re.DOTALL)
# The whole answer, each mark once.
_WHOLE = re.compile(
    r"\s*<think>(?:(?!</?think>|</?answer>|<gen_emb>).)+</think>\s*"
    r"<answer>(?:(?!</?think>|<answer>|<gen_emb>).)+<gen_emb>\s*",
    re.DOTALL,
)


def format_reward(text: str, *, whole: bool) -> float:
    """1 if an answer has the published form `<think>…</think><answer>…<gen_emb>`, else 0.

    Args:
        text: the answer, special tokens shown.
        whole: the whole answer must have it; else it need only be found, as upstream.
    """
    return float(bool(_WHOLE.fullmatch(text) if whole else _FOUND.search(text)))


def embedding_reward(
    own: Tensor,
    others: Tensor,
    pairs: Tensor,
    other_pairs: Tensor,
    *,
    usable: Tensor,
    other_usable: Tensor,
    kind: Kind = "top_share",
    temperature: float = 0.1,
) -> Tensor:
    """How well each rollout finds the rollouts of its pair's other side, float32 (rows,).

    With s a rollout's cosines to all rollouts of the other side, P those of its own pair and N the
    rest: `top_share`, the published one, is (share of the |P| best that are of P) x (mean P - mean
    N); `margin_soft` is that share x (mean P - mean of N weighted by softmax(N / temperature)), in
    which near misses count for more (after Embed-RL, arXiv 2602.13823). A rollout without
    `<gen_emb>` gets 0 and is in nobody's P or N. Ties count against the rollout.

    Args:
        own, others: vectors (rows, dim) and (columns, dim), any length.
        pairs, other_pairs: int64, which pair each belongs to.
        usable, other_usable: bool, whether each has a vector of its own `<gen_emb>`.
        kind: the formula.
        temperature: of `margin_soft`'s weights.
    """
    cosine = F.normalize(own.float(), dim=-1) @ F.normalize(others.float(), dim=-1).T
    there = other_usable[None].expand_as(cosine)
    positive = (pairs[:, None] == other_pairs[None]) & there
    negative = (pairs[:, None] != other_pairs[None]) & there
    count = positive.sum(1)
    # Negatives first among equals: a stable descending sort keeps the columns' order.
    by_kind = torch.cat([cosine.masked_fill(~negative, -torch.inf),
                         cosine.masked_fill(~positive, -torch.inf)], dim=1)  # fmt: skip
    best = by_kind.argsort(dim=1, descending=True, stable=True) >= cosine.shape[1]
    within = torch.arange(best.shape[1], device=best.device)[None] < count[:, None]
    share = (best & within).sum(1) / count.clamp(min=1)
    near = (cosine * positive).sum(1) / count.clamp(min=1)
    if kind == "margin_soft":
        weights = (cosine / temperature).masked_fill(~negative, -torch.inf).softmax(1).nan_to_num()
    else:
        weights = negative / negative.sum(1, keepdim=True).clamp(min=1)
    far = (cosine * weights).sum(1)
    return torch.where(usable & (count > 0), share * (near - far), torch.zeros_like(near))


def advantages(rewards: Tensor, groups: Tensor, *, scale: bool) -> Tensor:
    """What each rollout did better than its group, float32 (rows,).

    Args:
        rewards: (rows,).
        groups: int64 (rows,), rollouts of one prompt share one.
        scale: divide by the group's standard deviation (unbiased) + 1e-4, as published; without,
            hard and easy prompts weigh alike (Dr. GRPO, arXiv 2503.20783).
    """
    out = torch.zeros_like(rewards)
    for group in groups.unique():
        member = groups == group
        found = rewards[member]
        centred = found - found.mean()
        if scale and len(found) > 1:
            centred = centred / (found.std() + 1e-4)
        out[member] = centred
    return out
