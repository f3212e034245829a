"""Frame-sampling rules against qwen-vl-utils, where the formulas come from."""

from __future__ import annotations

import pytest
import qwen_vl_utils.vision_process as upstream
import torch

from ume_core import InvalidItem
from ume_core.frames import FrameSampling, frame_count, frame_indices


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
