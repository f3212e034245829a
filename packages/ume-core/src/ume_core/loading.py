"""Options every engine's factory receives."""

from __future__ import annotations

from dataclasses import dataclass, field

from ume_core.limits import Limits, Policy
from ume_core.prompts import DEFAULT_PROMPT


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded and which conventions its vectors follow.

    Attributes:
        name: the alias it was asked for by, for signatures; None takes the directory's or hub name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (bfloat16 on CUDA, float32 on a CPU), `float32` or `bfloat16`.
        attention: `auto` (flash_attention_2 where installed and on CUDA, else sdpa), `sdpa`,
            `eager` or `flash_attention_2`.
        prompt: prompt version (see `ume_core.prompts`).
        text_only: `blank` (as trained and officially evaluated) or `plain`.
        media_order: `media-first` (as officially evaluated) or `given`.
        batch_tokens: padded prompt tokens of one forward pass.
        aligned: the model's card declares disc and gen comparable.
    """

    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    prompt: str = DEFAULT_PROMPT
    text_only: str = "blank"
    media_order: str = "media-first"
    batch_tokens: int = 8192
    aligned: bool = False
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
