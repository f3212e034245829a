"""Options every engine's factory receives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ume_core.limits import Limits, Policy
from ume_core.prompts import DEFAULT_PROMPT


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded and which conventions its vectors follow.

    Attributes:
        name: the alias it was asked for by, for signatures; None takes the directory's or hub name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (bfloat16 on CUDA, float32 on a CPU), `float32` or `bfloat16`.
        attention: `auto` (flash_attention_2 where installed and on CUDA, else sdpa), `sdpa` or
            `flash_attention_2`.
        prompt: prompt version (see `ume_core.prompts`).
        text_only: `blank` (as trained and officially evaluated) or `plain`.
        media_order: `media-first` (as officially evaluated) or `given`.
        thinking: how gen answers: `full` (as trained), `short` (thinking is closed after
            `thinking_tokens`, the summary follows), `none` (the summary alone) or `skip`
            (`<gen_emb>` at once). All but `full` change the vectors, and the signature.
        thinking_tokens: tokens of short thinking.
        jpeg_draft: decode large JPEGs at a fraction of their size; faster, other pixels.
        batch_tokens: prompt tokens of one forward pass; fewer where memory is short.
        gen_rows: answers decoded together; fewer where memory is short.
        invariant: compute every item alone, so that not a bit depends on its batch (slower; without
            it float32 vectors agree to 1e-5 and half precision to the figures in the README).
        media_cache_bytes: visual states kept, so that a picture seen again is not computed again.
        gen_cache: file that keeps gen answers by content and signature; None keeps none.
        aligned: the model's card declares disc and gen comparable.
    """

    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    prompt: str = DEFAULT_PROMPT
    text_only: str = "blank"
    media_order: str = "media-first"
    thinking: str = "full"
    thinking_tokens: int = 64
    jpeg_draft: bool = False
    batch_tokens: int = 8192
    gen_rows: int = 32
    invariant: bool = False
    media_cache_bytes: int = 256 * 1024 * 1024
    gen_cache: Path | None = None
    aligned: bool = False
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
