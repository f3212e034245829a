"""The losses of UME-R1's SFT.

Paper (arXiv 2511.00405), cold start: InfoNCE on `<disc_emb>`, InfoNCE on `<gen_emb>`, next-token
cross-entropy on thinking and summary. Direction and weights are not published; both directions
averaged and equal weights are what the PLUME code of the same trainer lineage uses
(haoxiangzhao12138/PLUME @18db7e4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE over a batch, a scalar.

    Args:
        queries, positives: (pairs, dim), any length; row i of one belongs to row i of the other.
        temperature: divides the cosine similarities.
    """
    q, p = F.normalize(queries.float(), dim=-1), F.normalize(positives.float(), dim=-1)
    logits = q @ p.T / temperature
    target = torch.arange(len(q), device=q.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def teacher_nce(students: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Each student finds its own teacher vector among the batch's; rows of NaN take no part."""
    known = torch.isfinite(teacher).all(dim=-1)
    if int(known.sum()) < 2:
        return students.sum() * 0
    bank = F.normalize(teacher[known], dim=-1)
    logits = F.normalize(students[known].float(), dim=-1) @ bank.T / temperature
    # Equal or near teachers are the same concept, so the target is soft.
    target = (bank @ bank.T / temperature).softmax(dim=-1)
    return F.cross_entropy(logits, target)


def follow(students: Tensor, teachers: Tensor) -> Tensor:
    """Mean of 1 - cosine to the teachers, which get no gradient; both (rows, dim).

    Self-distillation, not part of the published recipe: unlike InfoNCE it needs no other rows, so
    small gen batches learn from a disc vector that large batches have trained.
    """
    return (1 - F.cosine_similarity(students.float(), teachers.detach().float(), dim=-1)).mean()


def next_token_loss(states: Tensor, targets: Tensor, output: Tensor) -> Tensor:
    """Mean cross-entropy in nats of `targets` (tokens,) given `states` (tokens, hidden).

    Args:
        output: the LM head's weight (vocabulary, hidden).
    """
    if len(targets) == 0:
        return states.sum() * 0
    return F.cross_entropy(F.linear(states, output).float(), targets)
