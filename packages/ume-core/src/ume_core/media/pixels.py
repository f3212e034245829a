"""From a decoded picture to what the eye sees: upright 8-bit RGB.

Every picture passes `as_seen`, whatever it came as, and every frame of a clip the same functions:
the marks that say how pixels are to be seen (orientation, depth, transparency) are read here and
nowhere else. Colour profiles are not applied, as in the published recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags
from PIL import Image as PILImage

from ume_core.errors import InvalidItem

# EXIF 2.3, tag 0x0112: the operation that makes pixels upright, by the tag's value. 1 is upright.
_UPRIGHT = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,  # Pillow counts counterclockwise
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # one channel, beyond 8 bits
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0
# Values to which a number type without a scale of its own may count: [0, 1], 8, 16, 31, 32 bits.
_TOPS = (1.0, 255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)
_OVERSHOOT = 1.25  # how far bicubic and Lanczos resampling go beyond the largest value, at most
_DARKEST = 5.0  # of 255: a picture whose brightest value is below shows nothing


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: RGB, upright.
        warnings: what was noticed that did not stop it, as sentences.
    """

    image: PILImage.Image
    warnings: tuple[str, ...] = ()


def as_seen(image: PILImage.Image, name: str) -> Picture:
    """The picture upright, with 8 bits a channel, over white where it is transparent.

    Args:
        image: of any mode; loaded here if it is not yet.
        name: for messages.

    Raises:
        InvalidItem: its numbers are NaN or infinite, or on no scale that is known.
        Exception: what Pillow raises on damaged data.
    """
    image.load()  # first: PNG may state its orientation behind the pixels, TIFF turns itself
    orientation, warnings = exif_orientation(image)
    return Picture(upright(_rgb(image, name), orientation), warnings)


def exif_orientation(image: PILImage.Image) -> tuple[int, tuple[str, ...]]:
    """EXIF's orientation, 1 to 8, and a warning where EXIF is there but cannot be read.

    Not `ImageOps.exif_transpose`: that writes all of EXIF anew, which fails on tags it cannot
    write, and such photos are common.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return (value if value in _UPRIGHT else 1), ()
    except Exception as error:  # Pillow's parser on hostile bytes: struct, syntax, type errors
        return 1, (f"the picture's EXIF data cannot be read, so it was not turned ({error}).",)


def upright(image: PILImage.Image, orientation: int) -> PILImage.Image:
    """Pixels that EXIF calls `orientation` (1 to 8), upright, with no mark left on them."""
    method = _UPRIGHT.get(orientation)
    out = image if method is None else image.transpose(method)
    out.info = {}
    return out


def swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """A (width, height) before or after `upright`."""
    return (size[1], size[0]) if orientation >= 5 else size


def over_white(image: PILImage.Image, alpha: PILImage.Image) -> PILImage.Image:
    """An RGB or RGBA image as it looks on a white page."""
    white = PILImage.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white


def _rgb(image: PILImage.Image, name: str) -> PILImage.Image:
    """8-bit RGB as a new image, so that what the caller owns stays as it is."""
    if image.mode in _DEEP:
        return _from_deep(image, name)
    if image.mode == "La":  # premultiplied; Pillow has no way from it but this one
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    rgba = _with_transparency(image).convert("RGBA")
    return over_white(rgba, rgba.getchannel("A"))


def _with_transparency(image: PILImage.Image) -> PILImage.Image:
    """The image, its transparent colour in the 8 bits of its pixels.

    Pillow reads the pixels of a 16-bit RGB PNG as their high bytes, but its tRNS as 16 bits.
    """
    colour: object = image.info.get("transparency")
    if image.mode != "RGB" or not isinstance(colour, tuple):
        return image
    values = cast("tuple[int, ...]", colour)
    if max(values, default=0) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in values)
    return image


def _from_deep(image: PILImage.Image, name: str) -> PILImage.Image:
    """Greys beyond 8 bits, scaled; Pillow's own conversion clips them to white."""
    values = np.asarray(image)
    top = _top(image, values, name)
    grey = np.rint(values.astype(np.float32).clip(0, top) * (255.0 / top)).astype(np.uint8)
    if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits, not these
        grey = 255 - grey
    out = PILImage.fromarray(grey).convert("RGB")
    clear: object = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)
        return over_white(out, PILImage.fromarray(alpha))
    return out


def _top(image: PILImage.Image, values: npt.NDArray[Any], name: str) -> float:
    """The value that means white.

    16 bits, and what PNG and PNM files hold, have a scale of their own. Other integers and floats
    have none: theirs is the smallest of 1 (floats), 255, 65,535 and 2^31 or 2^32 - 1 (integers)
    that holds the largest value.
    """
    if image.mode.startswith("I;16"):
        bits = _tiff_tag(image, _BITS_PER_SAMPLE)
        return 2.0**bits - 1 if bits is not None and 8 < bits < 16 else 65535.0
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535.0
    low, high = float(values.min()), float(values.max())
    is_float = image.mode == "F"
    if not np.isfinite([low, high]).all():
        raise InvalidItem(f"{name} holds NaN or infinity", fix="clean its values first")
    spare = _OVERSHOOT if is_float else 1.0
    top = next((t for t in (_TOPS[:3] if is_float else _TOPS[1:]) if high <= t * spare), 0.0)
    below = top * (spare - 1)
    if not top or low < -below or (is_float and top == 255.0 and high < _DARKEST):
        raise InvalidItem(
            f"{name} has values from {low:g} to {high:g}, which is no known scale of brightness",
            fix="scale them to [0, 1] (floats) or to 8 or 16 bits (integers)",
        )
    return top


def _tiff_tag(image: PILImage.Image, tag: int) -> int | None:
    """A number of a TIFF file's own tags."""
    tags: Any = getattr(image, "tag_v2", {})
    value: object = tags.get(tag)
    if isinstance(value, tuple) and value:
        value = cast("tuple[object, ...]", value)[0]
    return value if isinstance(value, int) else None
