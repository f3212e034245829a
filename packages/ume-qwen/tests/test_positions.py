"""M-RoPE positions where transformers versions disagree, worked out by hand."""

from __future__ import annotations

import numpy as np

from ume_qwen.patches import VisualInput
from ume_qwen.positions import mrope_positions


def video(t: int, h: int, w: int, seconds: float = 1.0) -> VisualInput:
    """h and w in merged tokens."""
    grid = (t, 2 * h, 2 * w)
    return VisualInput(np.zeros((t * h * w * 4, 1), np.float32), grid, "video", b"", seconds)


def test_text_counts_up_on_all_axes() -> None:
    assert mrope_positions([3]).tolist() == [[0, 1, 2]] * 3


def test_text_behind_a_long_video_starts_after_its_last_frame() -> None:
    # 5 frames of 1 x 2 tokens: transformers 5.x would go on at 2 + max(1, 2) = 4, inside the video.
    found = mrope_positions([2, video(5, 1, 2), 2])
    assert found[0].tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8]
    assert found[1].tolist() == [0, 1, *[2] * 10, 7, 8]
    assert found[2].tolist() == [0, 1, *[2, 3] * 5, 7, 8]


def test_qwen25_scales_time_by_seconds_and_truncates() -> None:
    # 0.75 s a grid step at 2 positions a second: 0, 1.5, 3 -> 0, 1, 3.
    # (transformers 4.57.6 alone cuts the 0.75 itself to 0.)
    found = mrope_positions([video(3, 1, 1, 0.75), 1], tokens_per_second=2)
    assert found[0].tolist() == [0, 1, 3, 4]
