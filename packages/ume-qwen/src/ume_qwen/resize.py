"""Video frames resized as torchvision resizes uint8 tensors, without torch and without BLAS.

A matrix product per frame would be the shorter way, but many threads prepare videos at once, and
OpenBLAS, which numpy's wheels bring, was seen to hang for good under such callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Taps:
    """The source places that each place of a resized axis is a weighted sum of.

    Attributes:
        first: int (target,), the first source place of each.
        weights: (target, taps); those behind the last source place wanted are 0.
    """

    first: npt.NDArray[np.intp]
    weights: Floats

    def apply(self, values: Floats) -> Floats:
        """(source, width) -> (target, width): summed tap by tap, in ATen's order."""
        out = values[self.first] * self.weights[:, :1]
        part = np.empty_like(out)
        for tap in range(1, self.weights.shape[1]):
            np.take(values, self.first + tap, axis=0, out=part, mode="clip")
            part *= self.weights[:, tap, None]
            out += part
        return out


def resize_frames(frames: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize frames as upstream does.

    Bicubic with antialiasing in float32 (ATen `_upsample_bicubic2d_aa`), first along the width,
    clamped and rounded half to even. Pillow keeps fewer bits: with its resize embeddings differ by
    up to 2e-4.

    Args:
        frames: (T, H, W, C).
        size: (h, w) wanted.

    Returns:
        (T, h, w, C).
    """
    count, height, width, channels = frames.shape
    if (height, width) == size:
        return frames
    rows, columns = bicubic_taps(height, size[0]), bicubic_taps(width, size[1])
    out = np.empty((count, *size, channels), dtype=np.uint8)
    upright = np.empty((width, height, channels), dtype=np.float32)
    narrow = np.empty((height, size[1], channels), dtype=np.float32)
    for number, frame in enumerate(frames):
        _turn(frame, upright)
        _turn(columns.apply(upright.reshape(width, -1)).reshape(size[1], height, -1), narrow)
        full = rows.apply(narrow.reshape(height, -1))
        np.rint(full, out=full)
        out[number] = full.clip(0, 255, out=full).reshape(*size, channels)
    return out


def _turn(source: npt.NDArray[Any], out: Floats) -> None:
    """(a, b, channels) -> (b, a, channels), by channel: numpy is slow at runs of three values."""
    for channel in range(source.shape[2]):
        out[..., channel] = source[..., channel].T


@lru_cache(maxsize=32)
def bicubic_taps(source: int, target: int) -> Taps:
    """Keys' kernel (a = -0.5), stretched where the axis shrinks.

    In float32 and in the order of ATen's `_compute_indices_min_size_weights_aa`
    (UpSampleKernel.cpp), from whose pixels float64's differ 30 times as often.
    """
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(source) / np.float32(target)
    stretch = max(scale, one)
    center = scale * (np.arange(target, dtype=np.float32) + half)
    begin = np.maximum((center - 2 * stretch + half).astype(np.intp), 0)
    end = np.minimum((center + 2 * stretch + half).astype(np.intp), source)
    taps = np.arange(int((end - begin).max()))
    x = np.abs((begin[:, None] + taps).astype(np.float32) - center[:, None] + half) * (
        one / stretch
    )
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -half
    inside = taps < (end - begin)[:, None]
    weights = np.where(inside & (x < 2), np.where(x < 1, near, far), np.float32(0))
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]  # summed one by one, as ATen does
    return Taps(begin, weights)
