"""Small pictures and clips the tests write themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

Clip = Callable[..., Path]


@pytest.fixture
def scene() -> PILImage.Image:
    """A picture without any symmetry, 96 x 64."""
    return draw_scene(96, 64)


def draw_scene(width: int, height: int) -> PILImage.Image:
    image = PILImage.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.08, height * 0.05, width * 0.5, height * 0.47), fill="red")
    pen.rectangle((width * 0.6, height * 0.1, width * 0.9, height * 0.3), fill="blue")
    pen.polygon(
        [(width * 0.1, height * 0.9), (width * 0.5, height * 0.9), (width * 0.3, height * 0.55)],
        fill="green",
    )
    return image


@pytest.fixture
def write_clip(tmp_path: Path) -> Clip:
    """Encode frames: `write_clip("a.mp4", frames, codec=…, pts=…, …)` gives the path."""

    def write(
        name: str,
        frames: Sequence[PILImage.Image],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 10,
        pts: Sequence[int] | None = None,
        time_base: Fraction | None = None,
        pixel_shape: Fraction | None = None,
        encoder: dict[str, str] | None = None,
        **container: Any,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", **container) as out:
            stream = out.add_stream(codec, rate=rate, options=encoder or {})
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = pix_fmt
            if time_base is not None:
                stream.codec_context.time_base = time_base
            if pixel_shape is not None:
                stream.codec_context.sample_aspect_ratio = pixel_shape
            for number, image in enumerate(frames):
                layout = {"RGB": "rgb24", "RGBA": "rgba"}[image.mode]
                frame = av.VideoFrame.from_ndarray(np.asarray(image), layout)
                if pts is not None:
                    frame.pts, frame.time_base = pts[number], time_base
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return path

    return write


def grey(level: int, size: tuple[int, int] = (64, 64)) -> PILImage.Image:
    """A frame whose brightness says which one it is."""
    return PILImage.new("RGB", size, (level, level, level))


@pytest.fixture
def numbered() -> Callable[[int], list[PILImage.Image]]:
    """`count` grey frames; `level(image)` over 4 is a frame's number."""
    return lambda count: [grey(20 + 4 * number) for number in range(count)]


@pytest.fixture
def number_of() -> Callable[[PILImage.Image], int]:
    """Which of the `numbered` frames a decoded one is."""
    return lambda image: round((float(np.asarray(image).mean()) - 20) / 4)


@pytest.fixture
def difference() -> Callable[[PILImage.Image, PILImage.Image], float]:
    """Mean difference of two pictures' values, 0 to 255; 255 where their sizes differ."""

    def measure(a: PILImage.Image, b: PILImage.Image) -> float:
        if a.size != b.size:
            return 255.0
        return float(np.abs(np.asarray(a).astype(int) - np.asarray(b.convert("RGB"))).mean())

    return measure
