"""Losses against sentence-transformers' and against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ume_train.config.stages import SFTLoss
from ume_train.losses import (
    Pairs,
    contrast,
    follow,
    info_nce,
    plain_pairs,
    teacher_nce,
    token_weights,
)

PUBLISHED = SFTLoss(temperature=0.02)


def _vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    queries = torch.randn(6, 8)
    return queries.requires_grad_(), (queries.detach() + torch.randn(6, 8)).requires_grad_()


def _oracle(queries: Tensor, positives: Tensor, **options: Any) -> Tensor:
    """sentence-transformers' loss in upstream's configuration (6.2.0)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(
        SentenceTransformer(modules=[torch.nn.Identity()]), scale=50.0,
        directions=options.pop("directions", ("query_to_doc", "doc_to_query")),
        partition_mode="per_direction", **options,
    )  # fmt: skip
    return loss.compute_loss_from_embeddings([queries, positives], torch.empty(0))


def test_info_nce_is_sentence_transformers() -> None:
    ours, theirs = _vectors(), _vectors()
    a, b = info_nce(*ours, PUBLISHED), _oracle(*theirs)
    torch.testing.assert_close(a, b)
    a.backward()
    b.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_hardness_is_sentence_transformers() -> None:
    # Theirs weighs query_to_doc alone, so the other direction's plain share is put beside it.
    queries, positives = _vectors()
    hard = _oracle(
        queries, positives, hardness_mode="in_batch_negatives", hardness_strength=9.0,
        directions=("query_to_doc",),
    )  # fmt: skip
    back = _oracle(
        positives, queries, hardness_mode="in_batch_negatives", hardness_strength=9.0,
        directions=("query_to_doc",),
    )  # fmt: skip
    ours = info_nce(queries, positives, SFTLoss(temperature=0.02, hardness=9.0))
    torch.testing.assert_close(ours, (hard + back) / 2)


def test_info_nce_by_hand() -> None:
    q = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    p = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    # cosines: [[1, .7071], [0, .7071]]; at temperature 1
    rows = torch.log(torch.tensor([1 + 2.71828 ** (0.70711 - 1), 1 + 2.71828 ** (0 - 0.70711)]))
    columns = torch.log(torch.tensor([1 + 2.71828 ** (0 - 1), 1 + 2.71828**0.0]))
    expected = (rows.mean() + columns.mean()) / 2
    torch.testing.assert_close(info_nce(q, p, SFTLoss(temperature=1.0)), expected)


def test_upstreams_bfloat16_is_coarse() -> None:
    queries, positives = _vectors()
    coarse = info_nce(queries, positives, SFTLoss(temperature=0.02, similarity="bfloat16"))
    exact = info_nce(queries, positives, PUBLISHED)
    assert 0 < abs(float((coarse - exact).detach())) < 0.2


def test_equal_items_are_no_negatives_of_each_other() -> None:
    queries, positives = _vectors()
    warm = SFTLoss(temperature=1.0)
    usable = torch.ones(6, dtype=torch.bool)
    keys, others = torch.arange(6), torch.tensor([0, 1, 2, 3, 1, 5])  # 1 and 4 have one target
    masked = info_nce(queries, positives, warm, Pairs.of(usable, keys, others, mask=True))
    cosine = F.normalize(queries, dim=1) @ F.normalize(positives, dim=1).T
    same = torch.eye(6).bool().logical_not() & (others[:, None] == others)
    cut = cosine.masked_fill(same, -torch.inf)
    truth = torch.arange(6)
    expected = (F.cross_entropy(cut, truth) + F.cross_entropy(cut.T, truth)) / 2
    torch.testing.assert_close(masked, expected)
    assert float(masked.detach()) < float(info_nce(queries, positives, warm).detach())


def test_a_failed_pair_is_neither_row_nor_column() -> None:
    queries, positives = _vectors()
    usable = torch.tensor([True, True, False, True, True, True])
    none = torch.zeros(6, 6, dtype=torch.bool)
    found = info_nce(queries, positives, PUBLISHED, Pairs(usable, none))
    expected = info_nce(queries[usable], positives[usable], PUBLISHED)
    torch.testing.assert_close(found, expected)


def test_near_negatives_can_be_left_out() -> None:
    queries, positives = _vectors()
    assert float(info_nce(queries, positives, SFTLoss(temperature=0.02, mask_margin=2.0))) == 0
    some = info_nce(queries, positives, SFTLoss(temperature=0.02, mask_margin=0.3))
    assert 0 < float(some) < float(info_nce(queries, positives, PUBLISHED))


def test_alignment_moves_gen_and_leaves_disc() -> None:
    disc, gen = (torch.cat(_vectors(s)).detach().requires_grad_() for s in (1, 2))
    settings = SFTLoss(temperature=0.02, disc=0, gen=0, align=1.0)
    loss = contrast(disc, gen, settings, plain_pairs(6), align=True)["align"]
    expected = (info_nce(gen[:6], disc[6:], PUBLISHED) + info_nce(disc[:6], gen[6:], PUBLISHED)) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert disc.grad is None and gen.grad is not None and gen.grad.abs().sum() > 0
    free = SFTLoss(temperature=0.02, disc=0, gen=0, align=1.0, align_stop=False)
    contrast(disc, gen, free, plain_pairs(6), align=True)["align"].backward()
    assert disc.grad is not None
    assert "align" not in contrast(disc, gen, settings, plain_pairs(6), align=False)


def test_matryoshka_is_the_mean_over_lengths() -> None:
    disc = torch.cat(_vectors()).detach()
    found = contrast(disc, None, SFTLoss(matryoshka=(4, 2)), plain_pairs(6), align=False)["disc"]
    each = [info_nce(disc[:6, :n], disc[6:, :n], PUBLISHED) for n in (8, 4, 2)]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_following_moves_the_student_only() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0], [0.0, 1.0]], requires_grad=True)
    loss = follow(student, teacher)
    assert loss.tolist() == [1.0, 0.0]  # 1 - cos of 90 and of 0 degrees
    loss.sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_the_teachers_own_rows_are_found() -> None:
    x = torch.eye(5)
    assert teacher_nce(x, x, 0.05) < teacher_nce(x.flip(0), x, 0.05)
    assert float(teacher_nce(x, torch.full((5, 5), torch.nan), 0.05)) == 0


@pytest.mark.parametrize("size", [4, 2])
def test_cross_entropy_is_the_mean_of_each_side_of_each_group(size: int) -> None:
    torch.manual_seed(0)
    counts = torch.tensor([3, 5, 2, 4, 7, 1, 6, 2])  # four queries, four targets
    losses = [torch.rand(int(n)) for n in counts]
    groups = (torch.arange(4) // size).repeat(2)
    sides = torch.arange(8) // 4
    total = torch.zeros(4 // size, 2)
    total.index_put_((groups, sides), counts.float(), accumulate=True)
    weights = token_weights(sides, groups, torch.ones(8, dtype=torch.bool), total)
    found = sum(w * x.sum() for w, x in zip(weights, losses, strict=True))
    expected = torch.stack(
        [
            torch.stack([torch.cat(losses[s + g : s + g + size]).mean() for s in (0, 4)]).sum()
            for g in range(0, 4, size)
        ]
    ).mean()
    torch.testing.assert_close(found, expected)
