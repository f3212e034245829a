"""How many pixels and frames the model sees: Qwen's resizing and frame-sampling rules.

Source of the formulas and defaults: qwen-vl-utils 0.0.14, `vision_process.py` (`smart_resize`,
`smart_nframes`, `fetch_video`), for Qwen2-VL and Qwen2.5-VL (patch 14, merge 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ume_core.errors import InvalidItem, LimitExceeded

PATCH = 14
MERGE = 2
FACTOR = PATCH * MERGE  # both sides of a resized image are multiples of this
TEMPORAL_PATCH = 2  # two frames make one temporal patch
MAX_ASPECT_RATIO = 200
UTILS_MIN_PIXELS = 4 * FACTOR * FACTOR  # qwen-vl-utils' MIN_PIXELS of an image
UTILS_MAX_PIXELS = 16_384 * FACTOR * FACTOR  # and MAX_PIXELS: 12,845,056
VIDEO_MIN_PIXELS = 128 * FACTOR * FACTOR  # per frame
VIDEO_MAX_PIXELS = 768 * FACTOR * FACTOR  # per frame
VIDEO_TOTAL_PIXELS = int(128_000 * FACTOR * FACTOR * 0.9)
DEFAULT_FPS = 2.0
MIN_FRAMES = 4
MAX_FRAMES = 768


def smart_resize(
    height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = FACTOR
) -> tuple[int, int]:
    """(height, width) the image is resized to.

    Both are multiples of `factor`; their product lies between `min_pixels` and `max_pixels`; the
    aspect ratio is kept as well as that allows.

    Raises:
        InvalidItem: a side is 0 or the aspect ratio is above 200.
    """
    if height < 1 or width < 1:
        raise InvalidItem(f"the image is {width}x{height} pixels", fix="pass an image with pixels")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InvalidItem(
            f"the image is {width}x{height}: its aspect ratio is above {MAX_ASPECT_RATIO}",
            fix="crop it, or pad the short side",
        )
    new_h = max(factor, round(height / factor) * factor)
    new_w = max(factor, round(width / factor) * factor)
    if new_h * new_w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        # The published rule has no lower bound here; a strip thinner than one patch needs one.
        new_h = max(factor, math.floor(height / beta / factor) * factor)
        new_w = max(factor, math.floor(width / beta / factor) * factor)
    elif new_h * new_w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * beta / factor) * factor
        new_w = math.ceil(width * beta / factor) * factor
    return new_h, new_w


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
        count = round(sampling.nframes / TEMPORAL_PATCH) * TEMPORAL_PATCH
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
    if not TEMPORAL_PATCH <= count <= total:
        raise InvalidItem(
            f"{asked} selects {count} of the video's {total} frames",
            fix=f"ask for between {TEMPORAL_PATCH} and {total} frames",
        )
    return count


def frame_indices(count: int, total: int) -> list[int]:
    """`count` frame numbers spread evenly over `total`, first and last included.

    `torch.linspace(0, total - 1, count).round().long()` of the published reader, in float64.
    """
    if count == 1:
        return [0]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


@dataclass(frozen=True)
class VideoBudget:
    """Pixel limits of one video; None takes the published default."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None


def frame_pixels(budget: VideoBudget, frames: int) -> tuple[int, int]:
    """(min, max) pixels of one frame, given how many frames share `total_pixels`."""
    low = budget.min_pixels if budget.min_pixels is not None else VIDEO_MIN_PIXELS
    total = budget.total_pixels if budget.total_pixels is not None else VIDEO_TOTAL_PIXELS
    high = max(min(VIDEO_MAX_PIXELS, total / frames * TEMPORAL_PATCH), int(low * 1.05))
    if budget.max_pixels is not None:
        high = min(budget.max_pixels, high)
    if high < low:
        raise LimitExceeded(
            f"the video's max_pixels ({int(high)}) is below its min_pixels ({low})",
            fix="lower min_pixels or raise max_pixels",
        )
    return low, int(high)


def _even_ceil(value: float) -> int:
    return math.ceil(value / TEMPORAL_PATCH) * TEMPORAL_PATCH


def _even_floor(value: float) -> int:
    return math.floor(value / TEMPORAL_PATCH) * TEMPORAL_PATCH
