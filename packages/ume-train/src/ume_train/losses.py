"""The losses of UME-R1's SFT, as its code has them, and what is added to them.

Source of the published values: UME-R1 `src/sft-train/qwenvl/train/trainer.py`, kept in the history
of Kikcer/lume @73f138b: InfoNCE of disc and of gen with cosines x 50, both directions averaged,
each process's rows against all processes' columns, gathered with gradient; cross-entropy of either
side's answers; all weights 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ume_train.config.stages import SFTLoss
from ume_train.gather import gather, processes, rank


class Pairs(NamedTuple):
    """What is known of the pairs that are contrasted, of all processes.

    Attributes:
        usable: bool (pairs,). Others are no rows and no columns.
        same: bool (pairs, pairs), pairs that are no negatives of each other; the diagonal is not
            looked at.
    """

    usable: Tensor
    same: Tensor

    @classmethod
    def of(cls, usable: Tensor, queries: Tensor, positives: Tensor, *, mask: bool) -> Pairs:
        """From digests of either side's items, int64 (pairs,)."""
        same = (queries[:, None] == queries) | (positives[:, None] == positives)
        return cls(usable, same if mask else torch.zeros_like(same))


def plain_pairs(count: int, device: torch.device | str = "cpu") -> Pairs:
    """All usable, none alike."""
    usable = torch.ones(count, dtype=torch.bool, device=device)
    return Pairs(usable, torch.zeros(count, count, dtype=torch.bool, device=device))


def info_nce(
    queries: Tensor, positives: Tensor, settings: SFTLoss, pairs: Pairs | None = None
) -> Tensor:
    """Symmetric InfoNCE, a scalar: this process's share, whose mean over processes is the loss.

    Args:
        queries, positives: (pairs of this process, dim), any length; row i of one belongs to row i
            of the other.
        settings: temperature, precision, masks and hardness.
        pairs: of all processes; None takes all as usable.
    """
    q, p = F.normalize(queries.float(), dim=-1), F.normalize(positives.float(), dim=-1)
    all_q, all_p = gather(q), gather(p)
    pairs = pairs or plain_pairs(len(all_q), q.device)
    first = rank() * len(q)
    rows = slice(first, first + len(q))
    per_row = (
        _one_direction(q, all_p, settings, pairs, rows)
        + _one_direction(p, all_q, settings, pairs, rows)
    ) / 2
    return (per_row * pairs.usable[rows]).sum() * processes() / pairs.usable.sum().clamp(min=1)


def _one_direction(
    rows: Tensor, columns: Tensor, settings: SFTLoss, pairs: Pairs, own: slice
) -> Tensor:
    """Cross-entropy of every row to find its column, (rows,)."""
    if settings.similarity == "bfloat16":
        rows, columns = rows.bfloat16(), columns.bfloat16()
    cosine = rows @ columns.T
    index = torch.arange(own.start, own.stop, device=rows.device)
    positive = F.one_hot(index, len(columns)).bool()
    logits = (cosine / settings.temperature).float()
    if settings.hardness:
        logits = logits + settings.hardness * cosine.detach().float() * ~positive
    out = pairs.same[own] | ~pairs.usable[None]
    if settings.mask_margin is not None:
        limit = cosine.detach().gather(1, index[:, None]) - settings.mask_margin
        out = out | (cosine.detach() > limit)
    logits = logits.masked_fill(out & ~positive, -torch.inf)
    return F.cross_entropy(logits, index, reduction="none")


def contrast(
    disc: Tensor,
    gen: Tensor | None,
    settings: SFTLoss,
    pairs: Pairs,
    *,
    align: bool,
    teacher: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms on vectors, each times its weight: this process's shares.

    Args:
        disc, gen: (2 x pairs of this process, dim), queries first; gen None trains disc alone.
        settings: weights and the rest.
        pairs: of all processes.
        align: whether alignment has begun.
        teacher: (pairs of all processes, dim), rows of NaN where there is none.
    """
    found: dict[str, Tensor] = {}
    half = len(disc) // 2

    def add(name: str, weight: float, value: Tensor) -> None:
        found[name] = found[name] + weight * value if name in found else weight * value

    lengths = (disc.shape[1], *settings.matryoshka)
    for length in lengths:
        d = disc[:, :length]
        share = 1 / len(lengths)
        if settings.disc:
            add("disc", settings.disc * share, info_nce(d[:half], d[half:], settings, pairs))
        if gen is None:
            continue
        g = gen[:, :length]
        if settings.gen:
            add("gen", settings.gen * share, info_nce(g[:half], g[half:], settings, pairs))
        if settings.align and align:
            still = d.detach() if settings.align_stop else d
            both = info_nce(g[:half], still[half:], settings, pairs) + info_nce(
                still[:half], g[half:], settings, pairs
            )
            add("align", settings.align * share, both / 2)
    if gen is not None and settings.follow:
        usable = pairs.usable[rank() * half : (rank() + 1) * half].repeat(2)
        away = (follow(gen, disc) * usable).sum() / (2 * pairs.usable.sum()).clamp(min=1)
        add("follow", settings.follow, away * processes())
    if teacher is not None and settings.teacher:
        first = rank() * half
        for side in (disc[:half], disc[half:]):
            add(
                "teacher", settings.teacher, teacher_nce(side, teacher, settings.temperature, first)
            )
    return found


def teacher_nce(students: Tensor, teacher: Tensor, temperature: float, first: int = 0) -> Tensor:
    """Each student finds its own teacher vector among the batch's; rows of NaN take no part.

    Args:
        students: (pairs of this process, dim).
        teacher: (pairs of all processes, dim).
        first: this process's first row among them.
    """
    known = torch.isfinite(teacher).all(dim=-1)
    own = known[first : first + len(students)]
    if int(known.sum()) < 2 or not own.any():
        return students.sum() * 0
    bank = F.normalize(teacher[known], dim=-1)
    mine = F.normalize(teacher[first : first + len(students)][own], dim=-1)
    logits = F.normalize(students[own].float(), dim=-1) @ bank.T / temperature
    # Equal or near teachers are the same concept, so the target is soft.
    target = (mine @ bank.T / temperature).softmax(dim=-1)
    return F.cross_entropy(logits, target, reduction="sum") * processes() / known.sum()


def follow(students: Tensor, teachers: Tensor) -> Tensor:
    """1 - cosine to the teachers, which get no gradient, (rows,); both (rows, dim).

    Self-distillation, not part of the published recipe: unlike InfoNCE it needs no other rows, so
    small gen batches learn from a disc vector that large batches have trained.
    """
    return 1 - F.cosine_similarity(students.float(), teachers.detach().float(), dim=-1)


def token_weights(sides: Tensor, groups: Tensor, usable: Tensor, total: Tensor) -> Tensor:
    """What each row's learned tokens weigh in the cross-entropy, float32 (rows,).

    The loss is the mean over either side's tokens, of both sides together, for each group of
    pairs, and the mean of that over groups.

    Args:
        sides: int64 (rows,), 0 for queries and 1 for targets.
        groups: int64 (rows,), the group over whose tokens a row's mean is taken.
        usable: bool (rows,).
        total: float32 (groups, 2), learned tokens of usable rows by group and side, of all groups.
    """
    return usable / total[groups, sides].clamp(min=1) / len(total)
