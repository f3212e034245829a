"""Options of the ONNX Runtime engine alone."""

from __future__ import annotations

from dataclasses import dataclass

from ume_core.errors import InvalidOption


@dataclass(frozen=True)
class OnnxOptions:
    """How ume-onnxruntime computes.

    Attributes:
        provider: execution provider: `auto` (by `device`), `cpu`, `cuda` or `tensorrt`.
        pack_tokens: most tokens of several prompts together; None takes 512 on a CPU, 2,048 on a
            GPU, where larger products pay.
        media_cache_bytes: visual states kept, so that an image seen again is not computed again.
    """

    provider: str = "auto"
    pack_tokens: int | None = None
    media_cache_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.pack_tokens is not None and self.pack_tokens < 1:
            raise InvalidOption(f"pack_tokens is {self.pack_tokens}", fix="pass a number from 1")
        if self.media_cache_bytes < 0:
            raise InvalidOption(
                f"media_cache_bytes is {self.media_cache_bytes}", fix="pass a number from 0"
            )
