"""Small drawings: a coloured shape on white, alone, moving, or as a page with a caption."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 84  # pixels; what ume-nano sees without resizing
_COLOURS = {
    "red": (214, 40, 40), "blue": (38, 84, 196), "green": (46, 140, 70), "yellow": (240, 190, 30),
    "black": (20, 20, 20), "orange": (240, 120, 30),
}  # fmt: skip
_SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str

    @property
    def name(self) -> str:
        """Such as `red star`."""
        return f"{self.colour} {self.shape}"


THINGS = tuple(Thing(c, s) for s in _SHAPES for c in _COLOURS)


def draw(thing: Thing, dx: float = 0.0, scale: float = 0.36) -> Image.Image:
    """The thing in the middle, moved to the side by `dx` of the width."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    x, y, r = SIDE * (0.5 + dx), SIDE * 0.5, SIDE * scale
    fill = _COLOURS[thing.colour]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    else:
        pen.polygon(_corners(thing.shape, x, y, r), fill=fill)
    return picture


def _corners(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    count = 3 if shape == "triangle" else 10
    corners: list[tuple[float, float]] = []
    for n in range(count):
        length = r if shape == "triangle" or n % 2 == 0 else 0.42 * r
        angle = 2 * math.pi * n / count - math.pi / 2
        corners.append((x + length * math.cos(angle), y + length * math.sin(angle)))
    return corners


def clip(thing: Thing, frames: int) -> list[Image.Image]:
    """The thing moving from left to right."""
    steps = max(1, frames - 1)
    return [draw(thing, dx=0.3 * (2 * n / steps - 1), scale=0.2) for n in range(frames)]


def page(thing: Thing, number: int) -> bytes:
    """A page as PNG: the thing, and lines that differ from page to page."""
    picture = draw(thing, scale=0.25)
    pen = ImageDraw.Draw(picture)
    for line in range(3):
        pen.line((6, 70 + 4 * line, 20 + (7 * number + 13 * line) % 60, 70 + 4 * line), "grey")
    return png(picture)


def png(picture: Image.Image) -> bytes:
    """Encoded as PNG."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
