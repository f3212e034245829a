"""Sizes of media, checked before memory is spent."""

from __future__ import annotations

from ume_core.errors import LimitExceeded, MediaError
from ume_core.limits import Limits


def check_pixels(size: tuple[int, int], name: str, limits: Limits) -> None:
    """Refuse a picture or frame of this (width, height).

    Raises:
        LimitExceeded: more pixels than `Limits.image_pixels`. MediaError: none.
    """
    pixels = size[0] * size[1]
    if pixels > limits.image_pixels:
        raise LimitExceeded(
            f"{name} has {size[0]}x{size[1]} pixels, more than limits.image_pixels "
            f"({limits.image_pixels:,})",
            fix="shrink it or raise the limit",
        )
    if pixels == 0:
        raise MediaError(f"{name} has no pixels", fix="replace it")


def check_frames(count: int, limits: Limits) -> None:
    """Refuse a video that gives the model more frames than `Limits.video_frames`."""
    if count > limits.video_frames:
        raise LimitExceeded(
            f"the video gives the model {count} frames, more than limits.video_frames "
            f"({limits.video_frames})",
            fix="pass a lower fps or nframes, or raise the limit",
        )


def check_video_pixels(pixels: int, what: str, limits: Limits) -> None:
    """Refuse a video whose frames together have more pixels than `Limits.video_pixels`."""
    if pixels > limits.video_pixels:
        raise LimitExceeded(
            f"{what} have {pixels:,} pixels, more than limits.video_pixels "
            f"({limits.video_pixels:,})",
            fix="pass fewer frames, shrink the video, or raise the limit",
        )
