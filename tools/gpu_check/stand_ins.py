"""For rehearsals on a CPU: what stands in there for a kernel, a graph and a lack of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ume_torch.attention import Segments, Varlen, find_varlen
from ume_torch.engine import TorchEmbedder
from ume_torch.testing.kernels import Kernel


def varlen_kernel(device: str) -> Varlen | None:
    """torch's kernel for many segments; on a CPU its documented meaning, written out."""
    if torch.device(device).type == "cuda":
        return find_varlen("sdpa", device, "bfloat16")

    def documented(
        q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, *, causal: bool
    ) -> Tensor:
        return Kernel().flash_attn(
            q, k, v, cu_seqlens_q=queries.sums, cu_seqlens_k=keys.sums,
            max_seqlen_q=queries.longest, max_seqlen_k=keys.longest, causal=causal,
        )  # fmt: skip

    return documented


class Repeater:
    """A recorder whose replays run the work again.

    Attributes:
        usable: whether recording works.
        replayed: how many replays there were.
    """

    def __init__(self) -> None:
        self.usable = True
        self.replayed = 0

    def session(self) -> Repeater:
        """Itself: it holds nothing."""
        return self

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `ume_torch.steps.Session`."""

        def replay() -> Tensor:
            self.replayed += 1
            return work()

        return replay

    def close(self) -> None:
        """It holds nothing."""


@contextmanager
def short_of_memory(engine: TorchEmbedder, tokens: int) -> Generator[None]:
    """torch's own error for packs of more than `tokens` tokens."""
    decoder: Any = engine.runner.decoder
    prefill = decoder.prefill

    def short(pack: Any, *given: Any, **named: Any) -> Any:
        if pack.tokens > tokens:
            raise torch.OutOfMemoryError("stands in for a device that is full")
        return prefill(pack, *given, **named)

    decoder.prefill = short
    try:
        yield
    finally:
        del decoder.prefill
