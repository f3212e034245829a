"""Which frames of a video the model sees.

Source of the rules and defaults: qwen-vl-utils 0.0.14, `vision_process.py` (`smart_nframes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ume_core.errors import InvalidItem

FRAME_FACTOR = 2  # frames come in pairs
DEFAULT_FPS = 2.0
MIN_FRAMES = 4
MAX_FRAMES = 768


@dataclass(frozen=True)
class FrameSampling:
    """How frames are taken from a decoded video; one of `fps` and `nframes` at most."""

    fps: float | None = None
    nframes: int | None = None
    min_frames: int | None = None
    max_frames: int | None = None


def frame_count(sampling: FrameSampling, total: int, video_fps: float) -> int:
    """How many of `total` frames the model sees; even, at least 2.

    Raises:
        InvalidItem: the video has fewer than two frames, or `nframes` is out of range.
    """
    if sampling.nframes is not None:
        count = round(sampling.nframes / FRAME_FACTOR) * FRAME_FACTOR
        asked = f"nframes={sampling.nframes}"
    else:
        fps = sampling.fps if sampling.fps is not None else DEFAULT_FPS
        low = _even_ceil(sampling.min_frames if sampling.min_frames is not None else MIN_FRAMES)
        high = _even_floor(
            sampling.max_frames if sampling.max_frames is not None else min(MAX_FRAMES, total)
        )
        wanted = total / video_fps * fps
        count = _even_floor(min(min(max(wanted, low), high), total))
        asked = f"fps={fps:g}"
    if not FRAME_FACTOR <= count <= total:
        raise InvalidItem(
            f"{asked} selects {count} of the video's {total} frames",
            fix=f"ask for between {FRAME_FACTOR} and {total} frames",
        )
    return count


def frame_indices(count: int, total: int) -> list[int]:
    """`count` frame numbers spread evenly over `total`, first and last included.

    `torch.linspace(0, total - 1, count).round().long()` of the published reader, in float64.
    """
    if count == 1:
        return [0]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def _even_ceil(value: float) -> int:
    return math.ceil(value / FRAME_FACTOR) * FRAME_FACTOR


def _even_floor(value: float) -> int:
    return math.floor(value / FRAME_FACTOR) * FRAME_FACTOR
