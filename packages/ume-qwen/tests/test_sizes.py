"""Resizing rules against qwen-vl-utils, where the formulas come from."""

from __future__ import annotations

import pytest
import qwen_vl_utils.vision_process as upstream

from ume_core import InvalidItem
from ume_qwen.sizes import FACTOR, smart_resize

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
