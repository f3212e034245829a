"""Muon: momentum whose update of a matrix is made nearly orthogonal (Jordan et al., 2024).

As `torch.optim.Muon` (2.12), with two differences that matter on a CPU: the Newton-Schulz products
run in a dtype of the caller's choice, since torch's fixed bfloat16 took two thirds of a step of
ume-nano on a CPU without such products (AVX2: 8 of 12 s), and matrices of one shape are one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients and number of iterations: github.com/KellerJordan/Muon @f90a42b, as in torch.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Numbers of one batch: large matrices go one by one, as the memory of a few copies matters there.
_BATCH = 1 << 24


class Muon(torch.optim.Optimizer):
    """For hidden matrices; embeddings, norms and biases belong to AdamW.

    Args:
        matrices: parameters of two dimensions.
        lr: of a square matrix; that of (a, b) is times sqrt(max(1, a / b)).
        dtype: of the products that make an update orthogonal.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(
            list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One update from the gradients at hand."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[tuple(matrix.shape)].append(matrix)
            for (rows, columns), alike in shapes.items():
                most = max(1, _BATCH // (rows * columns))
                for start in range(0, len(alike), most):
                    self._step(alike[start : start + most], group)

    def _step(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        rows, columns = alike[0].shape
        moved = torch.stack([self._momentum(m, group["momentum"]) for m in alike])
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for matrix, update in zip(alike, orthogonal(moved, self._dtype), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-rate)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        held: Tensor = state["momentum_buffer"]
        held.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(held, momentum)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each of (n, rows, columns) with its singular values brought near 1, by Newton-Schulz."""
    a, b, c = _COEFFICIENTS
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide.to(dtype)
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide is matrices else x.mT).to(matrices.dtype)
