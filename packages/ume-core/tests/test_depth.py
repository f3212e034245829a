"""Greys beyond 8 bits keep their scale, and what is transparent lies on white, in every mode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import InvalidItem, MediaError
from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_core.media import load_video, open_image
from ume_qwen.patches import PatchConfig, Patchifier

Difference = Callable[[PILImage.Image, PILImage.Image], float]


@pytest.fixture
def grey(scene: PILImage.Image) -> np.ndarray[Any, Any]:
    """uint8 (64, 96) with values from black to white."""
    levels = np.asarray(scene.convert("L")).copy()
    levels[:8] = np.linspace(0, 255, 96).astype(np.uint8)
    return levels


def saved(image: PILImage.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(source: Any) -> np.ndarray[Any, Any]:
    """uint8 (height, width), of a picture that must be grey."""
    pixels = np.asarray(open_image(Image(source), Access())).astype(int)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def deep_pictures(levels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The same picture in every spelling that holds more than 8 bits a channel."""
    sixteen = levels.astype(np.uint16) * 257
    unit = (levels / 255).astype(np.float32)
    big = PILImage.frombytes("I;16B", (96, 64), sixteen.astype(">u2").tobytes())
    pictures = {
        "I;16": PILImage.fromarray(sixteen),
        "I;16B": big,
        "I of 16 bits": PILImage.fromarray(sixteen.astype(np.int32)),
        "I of 8 bits": PILImage.fromarray(levels.astype(np.int32)),
        "F of 0 to 1": PILImage.fromarray(unit),
        "F of 0 to 255": PILImage.fromarray(levels.astype(np.float32)),
        "F of 16 bits": PILImage.fromarray(sixteen.astype(np.float32)),
    }
    return {
        **pictures,
        "PNG": saved(pictures["I;16"], "PNG"),
        "TIFF I;16": saved(pictures["I;16"], "TIFF"),
        "TIFF I;16B": saved(big, "TIFF"),
        "TIFF LZW": saved(pictures["I;16"], "TIFF", compression="tiff_lzw"),
        "TIFF I": saved(pictures["I of 16 bits"], "TIFF"),
        "TIFF F 0 to 1": saved(pictures["F of 0 to 1"], "TIFF"),
        "TIFF F 0 to 255": saved(pictures["F of 0 to 255"], "TIFF"),
        "PGM": b"P5 96 64 65535\n" + sixteen.astype(">u2").tobytes(),
        "PFM": saved(pictures["F of 0 to 1"], "PPM"),
        "float array": unit,
    }


def test_deep_greys_look_as_their_8_bits(grey: np.ndarray[Any, Any]) -> None:
    for name, source in deep_pictures(grey).items():
        assert np.abs(opened(source) - grey).max() == 0, name
    frames = load_video(Video(list(deep_pictures(grey).values())[:4]), Access()).images
    assert all((np.asarray(frame)[..., 0] == grey).all() for frame in frames)


def test_a_lazily_opened_deep_picture_gives_the_same_patches(grey: np.ndarray[Any, Any]) -> None:
    patchify = Patchifier(PatchConfig(3136, 100_000), Access())
    expected = patchify(Image(PILImage.fromarray(grey))).patches
    for data in (source for source in deep_pictures(grey).values() if isinstance(source, bytes)):
        for source in (data, PILImage.open(io.BytesIO(data))):
            np.testing.assert_array_equal(patchify(Image(source)).patches, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_dark_16_bit_picture_stays_dark(kind: str) -> None:
    dark = np.full((8, 8), 200, np.uint16)  # 200 of 65,535: nearly black, not nearly white
    assert opened(saved(PILImage.fromarray(dark), kind)).max() <= 1
    assert opened(PILImage.fromarray(dark)).max() <= 1


def test_16_bits_with_a_transparent_grey_keep_their_scale(grey: np.ndarray[Any, Any]) -> None:
    sixteen = grey.astype(np.uint16) * 257
    sixteen[:, :10] = 12345
    data = saved(PILImage.fromarray(sixteen), "PNG")
    end = data.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 12345)
    clear = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    expected = grey.copy()
    expected[:, :10] = 255
    for source in (data[:end] + clear + data[end:],):
        for spelling in (source, PILImage.open(io.BytesIO(source))):
            assert np.abs(opened(spelling) - expected).max() == 0


def _png(width: int, rows: bytes, bits: int, colour: int, *chunks: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    height = 4
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + rows for _ in range(height)))
    extra = b"".join(chunk(b"tRNS", body) for body in chunks)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
        + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )  # fmt: skip


def test_a_transparent_colour_of_16_bits_is_found() -> None:
    clear, red = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC), struct.pack(">3H", 0xFFFF, 0, 0)
    image = open_image(Image(_png(2, clear + red, 16, 2, clear)), Access())
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 0)) == (255, 0, 0)


def test_16_bit_grey_with_alpha_is_laid_over_white() -> None:
    rows = struct.pack(">4H", 0x8000, 0, 0x8000, 0xFFFF)
    image = open_image(Image(_png(2, rows, 16, 4)), Access())
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 0)) == (128,) * 3


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBA", "RGBa", "P", "L", "RGB", "1"])
def test_every_transparent_mode_lies_on_white(mode: str, difference: Difference) -> None:
    rgba = PILImage.new("RGBA", (8, 4), (0, 0, 0, 0))  # left half clear, right half black
    rgba.paste((0, 0, 0, 255), (4, 0, 8, 4))
    expected = PILImage.new("RGB", (8, 4), "white")
    expected.paste((0, 0, 0), (4, 0, 8, 4))
    if mode == "PA":
        image = PILImage.frombytes("PA", (8, 4), bytes([0, 0] * 4 + [0, 255] * 4) * 4)
    elif mode in ("LA", "RGBA"):
        image = rgba.convert(mode)
    elif mode in ("La", "RGBa"):
        image = rgba.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        clear: dict[str, Any] = {"P": 7, "L": 9, "RGB": (1, 2, 3), "1": 255}
        image = PILImage.new(mode, (8, 4), 0)
        image.paste(clear[mode], (0, 0, 4, 4))  # black or nearly, but for its mark
        image.info["transparency"] = clear[mode]
    assert difference(open_image(Image(image), Access()), expected) == 0


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "L", "1", "P"])
def test_every_opaque_mode_is_what_pillow_shows(
    mode: str, scene: PILImage.Image, difference: Difference
) -> None:
    image = scene.convert(mode)
    assert difference(open_image(Image(image), Access()), image.convert("RGB")) == 0


def _tiff(levels: np.ndarray[Any, Any], bits: int, white_is_zero: bool) -> bytes:
    """A grey TIFF with tags of our choice; 12 bits are packed two to three bytes."""
    height, width = levels.shape
    if bits == 12:
        a, b = levels.reshape(-1, 2).T.astype(int)
        packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1)
        pixels = packed.astype(np.uint8).tobytes()
    else:
        pixels = levels.astype(f"<u{bits // 8}").tobytes()
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1),
        (262, 3, 0 if white_is_zero else 1), (273, 4, 8), (277, 3, 1), (278, 4, height),
        (279, 4, len(pixels)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


def test_a_tiff_of_12_bits_reaches_white(grey: np.ndarray[Any, Any]) -> None:
    levels = np.rint(grey * (4095 / 255)).astype(np.uint16)
    assert np.abs(opened(_tiff(levels, 12, white_is_zero=False)) - grey).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_no_negative(bits: int, grey: np.ndarray[Any, Any]) -> None:
    levels = (255 - grey).astype(np.uint16) * (257 if bits == 16 else 1)
    assert np.abs(opened(_tiff(levels, bits, white_is_zero=True)) - grey).max() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = bad
    image = PILImage.fromarray(values)
    for source in (image, saved(image, "TIFF"), values):
        with pytest.raises(InvalidItem, match="NaN or infinity"):
            open_image(Image(source), Access())


@pytest.mark.parametrize("values", [(-0.5, 1.0), (0.0, 3.0), (-90.0, 255.0), (0.0, 1e6)])
def test_floats_on_no_known_scale_are_refused(values: tuple[float, float]) -> None:
    image = PILImage.fromarray(np.linspace(*values, 64, dtype=np.float32).reshape(8, 8))
    with pytest.raises(InvalidItem, match="no known scale") as caught:
        open_image(Image(image), Access())
    assert "[0, 1]" in caught.value.fix


def test_overshoot_of_a_resize_is_clipped_not_taken_for_another_scale() -> None:
    edge = np.zeros((32, 32), np.float32)
    edge[:, 16:] = 1
    for top in (1, 255):
        resized = PILImage.fromarray(edge * top).resize((80, 80), PILImage.Resampling.LANCZOS)
        assert np.asarray(resized).max() > top  # or the test shows nothing
        shown = opened(resized)
        assert (shown[:, :20] < 16).all() and (shown[:, 60:] > 239).all()


def test_integers_of_32_bits_are_scaled_and_negative_ones_refused() -> None:
    high = np.array([[0, 2**30], [2**31 - 1, 2**29]], np.int32)
    assert opened(PILImage.fromarray(high)).tolist() == [[0, 128], [255, 64]]
    with pytest.raises(InvalidItem, match="no known scale"):
        open_image(Image(PILImage.fromarray(-high)), Access())


def test_a_cut_picture_is_still_refused(scene: PILImage.Image) -> None:
    data = saved(scene.resize((400, 300)), "JPEG")
    with pytest.raises(MediaError, match="truncated or damaged"):
        open_image(Image(data[: len(data) * 2 // 3]), Access())
