"""Resizing and frame-sampling rules against qwen-vl-utils, where the formulas come from."""

from __future__ import annotations

import pytest
import qwen_vl_utils.vision_process as upstream
import torch

from ume_core import InvalidItem
from ume_core.sizes import FACTOR, FrameSampling, frame_count, frame_indices, smart_resize

SIDES = [1, 13, 27, 28, 55, 84, 200, 333, 1080, 4000]


@pytest.mark.parametrize(("low", "high"), [(3136, 12845056), (3136, 7056), (100352, 602112)])
def test_smart_resize_equals_upstream(low: int, high: int) -> None:
    compared = 0
    for height in SIDES:
        for width in SIDES:
            if max(height, width) / min(height, width) > 200:
                continue
            expected = upstream.smart_resize(height, width, FACTOR, low, high)
            if 0 in expected:  # upstream floors a thin strip to nothing; ours keeps one patch
                assert min(smart_resize(height, width, min_pixels=low, max_pixels=high)) == FACTOR
                continue
            assert smart_resize(height, width, min_pixels=low, max_pixels=high) == expected
            compared += 1
    assert compared > 60


@pytest.mark.parametrize("size", [(0, 5), (1, 201), (5000, 3)])
def test_impossible_shapes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidItem, match="Fix"):
        smart_resize(*size, min_pixels=3136, max_pixels=10**6)


@pytest.mark.parametrize("total", [4, 9, 48, 1000])
@pytest.mark.parametrize(
    "options", [{}, {"fps": 1.0}, {"nframes": 4}, {"fps": 8.0, "max_frames": 6}]
)
def test_frames_are_those_upstream_takes(total: int, options: dict[str, float]) -> None:
    count = upstream.smart_nframes(dict(options), total, 24.0)
    assert frame_count(FrameSampling(**options), total, 24.0) == count  # type: ignore[arg-type]
    expected = torch.linspace(0, total - 1, count).round().long().tolist()
    assert frame_indices(count, total) == expected


def test_more_frames_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidItem, match="between 2 and 5"):
        frame_count(FrameSampling(nframes=64), 5, 24.0)
