"""Pixels against transformers' own processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core.errors import InvalidItem, LimitExceeded
from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_torch.patches import PatchConfig, Patchifier


def noise(width: int, height: int, seed: int = 0) -> PILImage.Image:
    rng = np.random.default_rng(seed)
    return PILImage.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(84, 84), (112, 56), (200, 333)])
def test_patches_equal_transformers_processor(size: tuple[int, int]) -> None:
    from qwen_vl_utils.vision_process import fetch_image
    from transformers import Qwen2VLImageProcessor

    picture = noise(*size)
    processor = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)
    expected = processor(fetch_image({"image": picture}), return_tensors="pt")
    ours = Patchifier(PatchConfig(3136, 12845056), Access())(Image(picture))
    assert list(ours.grid) == expected["image_grid_thw"][0].tolist()
    np.testing.assert_allclose(ours.patches, expected["pixel_values"].numpy(), atol=1e-6)


def test_a_small_checkpoints_limits_bound_videos_too() -> None:
    patchify = Patchifier(PatchConfig(3136, 7056), Access())
    assert patchify(Video([noise(640, 480)] * 4)).grid[1:] == (4, 6)
    assert patchify(Video([noise(84, 84)] * 3)).grid == (2, 6, 6)


def test_frames_of_different_sizes_and_crossed_limits_are_refused() -> None:
    patchify = Patchifier(PatchConfig(), Access())
    with pytest.raises(InvalidItem, match="different sizes"):
        patchify(Video([noise(300, 100), noise(100, 300)]))
    with pytest.raises(LimitExceeded, match="below"):
        patchify(Image(noise(50, 50), min_pixels=10**6, max_pixels=10**4))
