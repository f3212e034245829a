"""Turning sprites into training and test pictures: single objects, composed scenes, short clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tools.nano.sprites import SIDE, SpriteSheet

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255), "black": (20, 20, 20), "gray": (140, 140, 140),
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (250, 220, 50),
    "green": (50, 165, 70), "blue": (45, 95, 220), "purple": (135, 60, 180),
    "pink": (250, 150, 190), "brown": (130, 85, 45),
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "growing", "shrinking")
CLIP_FRAMES = 4


@dataclass(frozen=True)
class Look:
    """How much a picture is varied.

    Attributes:
        colour: largest change of a channel's gain.
        grey: share of pictures without colour.
        outline: share of pictures redrawn in outlines.
    """

    colour: float = 0.25
    grey: float = 0.15
    outline: float = 0.0


def sprite(
    sheet: SpriteSheet, concept: int, style: str, tint: tuple[int, int, int] | None = None
) -> Floats:
    """The concept's picture as float RGBA in [0, 1], (96, 96, 4); masks take the tint."""
    row = sheet.rows[concept][style]
    if sheet.is_mask(style):
        out = np.empty((SIDE, SIDE, 4), dtype=np.float32)
        out[..., :3] = np.array(tint or (20, 20, 20), dtype=np.float32) / 255
        out[..., 3] = sheet.mask[row] / np.float32(255)
        return out
    return sheet.colour[row] / np.float32(255)


def shrink(image: Floats, size: int) -> Floats:
    """Area-like resize of (S, S, 4) to (size, size, 4), alpha respected."""
    from PIL import Image

    premultiplied = image.copy()
    premultiplied[..., :3] *= premultiplied[..., 3:]
    planes = [
        np.asarray(
            Image.fromarray(premultiplied[..., c]).resize((size, size), Image.Resampling.BOX)
        )
        for c in range(4)
    ]
    return np.stack(planes, axis=-1)


def paste(canvas: Floats, premultiplied: Floats, top: int, left: int) -> None:
    """Lay a premultiplied RGBA picture on an RGB canvas in place, clipped at its edges."""
    height, width = premultiplied.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + height), min(canvas.shape[1], left + width)
    if y0 >= y1 or x0 >= x1:
        return
    piece = premultiplied[y0 - top : y1 - top, x0 - left : x1 - left]
    area = canvas[y0:y1, x0:x1]
    area *= 1 - piece[..., 3:]
    area += piece[..., :3]


def background(side: int, colour: tuple[int, int, int]) -> Floats:
    """A canvas of one colour, float RGB (side, side, 3)."""
    return np.broadcast_to(np.array(colour, np.float32) / 255, (side, side, 3)).copy()


def to_bytes(canvas: Floats) -> Bytes:
    """Float RGB in [0, 1] to uint8."""
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def vary(canvas: Floats, look: Look, rng: Rng) -> Floats:
    """Change brightness and hue a little; sometimes draw in outlines or drop the colour."""
    if look.outline and rng.random() < look.outline:
        canvas = outline(canvas, rng)
    if look.colour:
        gain = 1 + rng.uniform(-look.colour, look.colour, 3).astype(np.float32)
        canvas = canvas * gain + np.float32(rng.uniform(-0.1, 0.1))
    if rng.random() < look.grey:
        canvas = np.repeat(canvas.mean(axis=-1, keepdims=True), 3, axis=-1)
    return canvas


def outline(canvas: Floats, rng: Rng) -> Floats:
    """Redraw in lines: dark edges over flat colours, or edges alone on white.

    A drawing style that no training set has; without it the model keys on the sets' shading.
    """
    grey = canvas.mean(axis=-1)
    steep = np.zeros_like(grey)
    down, right = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    steep[:-1] += down
    steep[1:] += down
    steep[:, :-1] += right
    steep[:, 1:] += right
    ink = (steep * np.float32(rng.uniform(1.5, 4.0)) - 0.25).clip(0, 1)[..., None]
    if rng.random() < 0.3:
        return 1 - ink
    levels = np.float32(rng.integers(2, 5))
    return np.round(canvas * levels) / levels * (1 - ink)


def single(picture: Floats, side: int, rng: Rng | None, colour: tuple[int, int, int]) -> Floats:
    """One object on a background; without `rng` centred at nine tenths of the side."""
    scale = 0.9 if rng is None else rng.uniform(0.62, 1.0)
    size = round(side * scale)
    room = side - size
    top, left = (room // 2, room // 2) if rng is None else rng.integers(0, room + 1, 2)
    canvas = background(side, colour)
    paste(canvas, shrink(picture, size), int(top), int(left))
    return canvas


def pair_scene(
    first: Floats, second: Floats, relation: str, side: int, rng: Rng, colour: tuple[int, int, int]
) -> Floats:
    """Two objects, the first standing in `relation` to the second."""
    half = side // 2
    near = rng.integers(0, max(1, half // 4), 2)  # jitter across the axis
    low, high = (0, int(near[0])), (half, int(near[1]))
    spots: dict[str, tuple[tuple[int, int], ...]] = {
        "left of": ((low[1] + half // 3, 0), (high[1] + half // 3, half)),
        "above": ((0, low[1] + half // 3), (half, high[1] + half // 3)),
    }
    spots["right of"] = spots["left of"][::-1]
    spots["below"] = spots["above"][::-1]
    canvas = background(side, colour)
    for picture, (top, left) in zip((first, second), spots[relation], strict=True):
        paste(canvas, shrink(picture, half), top, left)
    return canvas


def count_scene(
    picture: Floats, count: int, side: int, rng: Rng, colour: tuple[int, int, int]
) -> Floats:
    """`count` (2 to 4) copies of one object in the quarters of the canvas."""
    half = side // 2
    canvas = background(side, colour)
    small = shrink(picture, half - 2)
    for spot in rng.permutation(4)[:count]:
        paste(canvas, small, int(spot // 2 * half + 1), int(spot % 2 * half + 1))
    return canvas


def clip(
    picture: Floats, motion: str, side: int, rng: Rng, colour: tuple[int, int, int]
) -> list[Floats]:
    """Four frames of one object moving, growing or shrinking."""
    frames: list[Floats] = []
    offset = int(rng.integers(0, side // 3))
    for step in range(CLIP_FRAMES):
        part = step / (CLIP_FRAMES - 1)
        size = side // 2
        if motion in ("growing", "shrinking"):
            share = part if motion == "growing" else 1 - part
            size = round(side * (0.3 + 0.65 * share))
            top = left = (side - size) // 2
        else:
            travel = round(
                (side - size) * (part if motion.endswith(("right", "down")) else 1 - part)
            )
            sideways = motion.endswith(("left", "right"))
            top, left = (offset, travel) if sideways else (travel, offset)
        canvas = background(side, colour)
        paste(canvas, shrink(picture, size), top, left)
        frames.append(canvas)
    return frames
