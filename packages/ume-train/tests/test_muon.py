"""Our Muon against torch's, whose products are fixed to bfloat16."""

from __future__ import annotations

import pytest
import torch

from ume_train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    made = orthogonal(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ made @ v.mT  # diagonal when made has the same directions
    assert (turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_it_steps_as_torch_does() -> None:
    torch.manual_seed(0)
    start = [torch.randn(8, 8), torch.randn(8, 24), torch.randn(8, 24), torch.randn(24, 8)]
    ours, theirs = ([w.clone().requires_grad_() for w in start] for _ in range(2))
    ourselves = Muon(ours, lr=0.02, weight_decay=0.1, momentum=0.95, dtype=torch.float32)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn_like(b)
            a.grad = b.grad.clone()
        ourselves.step()
        torchs.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        assert (a - b).norm() < 0.02 * moved  # bfloat16's rounding in theirs
