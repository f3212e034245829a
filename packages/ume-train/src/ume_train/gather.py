"""Rows of all processes, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All processes' rows; each row's gradient is the sum over processes.

    `torch.distributed.nn.functional.all_gather` does the same and is deprecated in torch 2.12.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return _all(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous().clone()  # autograd may hand the same memory to others
        dist.all_reduce(grad)
        first = dist.get_rank() * ctx.count
        return grad[first : first + ctx.count]


def gather(rows: Tensor) -> Tensor:
    """(processes x rows, ...) of (rows, ...), by rank; equally many everywhere."""
    if not is_distributed():
        return rows
    return _Gather.apply(rows) if rows.requires_grad else _all(rows)  # type: ignore[no-any-return]


def summed(value: Tensor) -> Tensor:
    """The sum over processes, without gradient."""
    value = value.detach().clone()
    if is_distributed():
        dist.all_reduce(value)
    return value


def is_distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if is_distributed() else 0


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if is_distributed() else 1


def on_cpu(device: str) -> bool:
    """Whether a run computes on the CPU, which accelerate must be told among processes."""
    return device == "cpu" or not torch.cuda.is_available()


def _all(rows: Tensor) -> Tensor:
    rows = rows.contiguous()
    found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(found, rows)
    return torch.cat(found)
