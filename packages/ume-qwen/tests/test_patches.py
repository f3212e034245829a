"""Pixels against transformers' own processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core.errors import InvalidItem, LimitExceeded
from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_qwen.patches import PatchConfig, Patchifier
from ume_qwen.resize import resize_frames


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


def test_pixels_come_back_from_patches() -> None:
    patchify = Patchifier(PatchConfig(3136, 12845056), Access())
    picture = np.asarray(noise(112, 84))
    assert (patchify.pixels(patchify(Image(PILImage.fromarray(picture)))) == picture).all()
    frames = [np.asarray(noise(84, 112, n)) for n in range(4)]
    clip = Video([PILImage.fromarray(f) for f in frames], resized_height=112, resized_width=84)
    assert (patchify.pixels(patchify(clip)) == frames).all()


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


@pytest.mark.parametrize(
    "sizes",
    [((90, 120), (56, 84)), ((37, 50), (84, 112)), ((84, 84), (56, 112)), ((700, 9), (28, 84))],
)
def test_frames_are_resized_as_torchvision_resizes_them(
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    (height, width), target = sizes
    frames = np.stack([np.asarray(noise(width, height, seed)) for seed in range(4)])
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    wanted = resize(tensor, list(target), InterpolationMode.BICUBIC, antialias=True)
    difference = resize_frames(frames, target).astype(int) - wanted.permute(0, 2, 3, 1).numpy()
    # A value that lies within float32's last bits of x.5 may be rounded either way.
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-4
