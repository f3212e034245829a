"""Attention over many segments of one long sequence in a single call, where there is a kernel.

Elsewhere (a CPU, float32, GPUs before Ampere, torch without `varlen_attn` and no flash-attn) every
segment is a call of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Where segments lie, end to end.

    Attributes:
        sums: int32 (segments + 1,): their borders.
        longest: tokens of the longest.
    """

    sums: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Segments of these lengths."""
        sums = torch.tensor([0, *lengths]).cumsum(0)
        return cls(sums.to(device, torch.int32), max(lengths))


class Varlen(Protocol):
    """Each segment of queries over the segment of keys with the same number."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, *, causal: bool
    ) -> Tensor:
        """(tokens, heads, dim) like `q`; `k` and `v` may have fewer heads.

        Args:
            causal: aligned to the lower right: a segment's last query sees all of its keys.
        """
        ...


def find_varlen(attention: str, device: str, dtype: str) -> Varlen | None:
    """The kernel for an attention (`sdpa` or `flash_attention_2`), a device and a dtype.

    `sdpa` is torch's own kernels: on CUDA its build of FlashAttention-2 answers here too.
    """
    if torch.device(device).type != "cuda" or dtype == "float32":
        return None
    if attention == "flash_attention_2":
        return _flash_attn
    if torch.cuda.get_device_capability(device) < (8, 0):  # FlashAttention-2 needs Ampere
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if not {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters):
        return None  # torch 2.10's first form of it
    return _torch_varlen


def _flash_attn(
    q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, *, causal: bool
) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    # Causal from the lower right since flash-attn 2.1.
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=queries.sums, cu_seqlens_k=keys.sums,
        max_seqlen_q=queries.longest, max_seqlen_k=keys.longest, causal=causal,
    )  # fmt: skip


def _torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, *, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(
        q, k, v, queries.sums, keys.sums, queries.longest, keys.longest,
        window_size=(-1, 0) if causal else (-1, -1), enable_gqa=True,
    )  # fmt: skip
    return out
