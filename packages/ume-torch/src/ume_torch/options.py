"""Options of the PyTorch engine alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ume_core.errors import InvalidOption

ATTENTION = ("auto", "sdpa", "flash_attention_2")


@dataclass(frozen=True)
class TorchOptions:
    """How ume-torch computes; none of these changes a vector beyond the dtype's tolerance.

    Attributes:
        attention: `auto` (flash_attention_2 where installed and on CUDA, else sdpa), `sdpa` or
            `flash_attention_2`.
        batch_tokens: prompt tokens of one forward pass; fewer where memory is short.
        gen_rows: answers decoded together; fewer where memory is short.
        cuda_graphs: replay decoding steps as CUDA graphs; not on a CPU, nor with `invariant`.
        invariant: compute every item alone, so that not a bit depends on its batch; slower.
        media_cache_bytes: visual states kept, so that an image seen again is not computed again.
        gen_cache: file that keeps gen answers by content and signature; None keeps none.
    """

    attention: str = "auto"
    batch_tokens: int = 8192
    gen_rows: int = 32
    cuda_graphs: bool = True
    invariant: bool = False
    media_cache_bytes: int = 256 * 1024 * 1024
    gen_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise InvalidOption(
                f"unknown attention {self.attention!r}", fix=f"use one of: {', '.join(ATTENTION)}"
            )
        for name, least in (("batch_tokens", 1), ("gen_rows", 1), ("media_cache_bytes", 0)):
            value: int = getattr(self, name)
            if value < least:
                raise InvalidOption(f"{name} is {value}", fix=f"pass a whole number from {least}")
