"""Variable-length attention as it is documented."""

from __future__ import annotations

from typing import Any

import torch


class Kernel:
    """The documented meaning of variable-length attention, written out; real kernels need a GPU.

    `flash_attn` and `torch` are the two libraries' spellings of it.
    """

    def __init__(self) -> None:
        self.calls = 0

    def flash_attn(
        self, q: Any, k: Any, v: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int,
        max_seqlen_k: int, causal: bool,
    ) -> Any:  # fmt: skip
        """flash-attn's `flash_attn_varlen_func`."""
        self.calls += 1
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert int(cu_seqlens_q[-1]) == len(q) and int(cu_seqlens_k[-1]) == len(k) == len(v)
        out = torch.empty_like(q)
        for i in range(len(cu_seqlens_q) - 1):
            own = slice(int(cu_seqlens_q[i]), int(cu_seqlens_q[i + 1]))
            seen = slice(int(cu_seqlens_k[i]), int(cu_seqlens_k[i + 1]))
            groups = q.shape[1] // k.shape[1]
            keys, values = (t[seen].repeat_interleave(groups, 1) for t in (k, v))
            queries, total = own.stop - own.start, seen.stop - seen.start
            assert queries <= max_seqlen_q and total <= max_seqlen_k
            scores = torch.einsum("qhd,khd->hqk", q[own], keys) * q.shape[-1] ** -0.5
            allowed = torch.ones(queries, total).tril(total - queries if causal else total) > 0
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            out[own] = torch.einsum("hqk,khd->qhd", weights, values)
        return out

    def torch(
        self, query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int,
        max_k: int, *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        """torch's `torch.nn.attention.varlen.varlen_attn`."""
        assert enable_gqa and window_size in ((-1, 0), (-1, -1))
        return self.flash_attn(
            query, key, value, cu_seqlens_q=cu_seq_q, cu_seqlens_k=cu_seq_k, max_seqlen_q=max_q,
            max_seqlen_k=max_k, causal=window_size == (-1, 0),
        )  # fmt: skip
