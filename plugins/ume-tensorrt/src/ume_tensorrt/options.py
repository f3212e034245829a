"""Options of the TensorRT engine alone."""

from __future__ import annotations

from dataclasses import dataclass

from ume_core.errors import InvalidOption


@dataclass(frozen=True)
class TensorRTOptions:
    """How ume-tensorrt computes.

    Attributes:
        streams: requests computed at once, each with its own buffers.
        cuda_graphs: capture sizes that come again and replay them.
        media_cache_bytes: visual states kept, so that an image seen again is not computed again.
    """

    streams: int = 2
    cuda_graphs: bool = True
    media_cache_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for name, least in (("streams", 1), ("media_cache_bytes", 0)):
            value: int = getattr(self, name)
            if value < least:
                raise InvalidOption(f"{name} is {value}", fix=f"pass a whole number from {least}")
