"""Opening pictures: from bytes, a PIL image or an array to a `Picture`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

import ume_core.media.isolation as isolation
from ume_core.errors import InvalidItem, LimitExceeded, MediaError, UmeError
from ume_core.fetch import Access, describe, read_source
from ume_core.items import Array, Image, MediaSource
from ume_core.limits import Limits
from ume_core.media.bounds import check_pixels
from ume_core.media.pixels import Picture, as_seen, exif_orientation, swapped

Draft: TypeAlias = Callable[[tuple[int, int]], tuple[int, int]]

# What is decoded, by Pillow's names. It knows formats that run programs (EPS starts Ghostscript).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
# Behind the size of the first box, ISO/IEC 23008-12: what phones write.
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"))
# A picture its owner opened lazily is read on first use, which two threads must not do at once.
_LAZY_PIL, _PILLOW = Lock(), Lock()


def open_picture(
    image: Image, access: Access, data: bytes | None = None, draft: Draft | None = None
) -> Picture:
    """The picture upright, as 8-bit RGB, alpha laid over white, and what was noticed.

    Args:
        data: the bytes of an encoded source, if they were read already.
        draft: the (width, height) wanted of a picture of some (width, height), both upright; a
            JPEG is then decoded at the smallest of 1/2, 1/4, 1/8 of its size that is not below.
            Other pixels.

    Raises:
        MediaError: it cannot be decoded. LimitExceeded: it has too many pixels.
        InvalidItem: an array of the wrong shape, NaN, or values on no known scale.
        PolicyViolation: see `read_source`.
    """
    return open_source(image.source, access, data, draft)


def open_image(
    image: Image, access: Access, data: bytes | None = None, draft: Draft | None = None
) -> PILImage.Image:
    """The pixels of `open_picture`, for those who show them."""
    return open_picture(image, access, data, draft).image


def open_source(
    source: MediaSource, access: Access, data: bytes | None = None, draft: Draft | None = None
) -> Picture:
    """`open_picture` of a bare source: a frame of a frame list is one."""
    if isinstance(source, np.ndarray):
        return _from_array(source, access.limits)
    if isinstance(source, PILImage.Image):
        if source.format is not None and source.format not in _FORMATS:
            raise MediaError(f"{source.format} pictures are not decoded", fix="convert it to PNG")
        check_pixels(source.size, "the PIL image", access.limits)
        with _LAZY_PIL:
            return _decoded(source, "the PIL image")
    _check_readable(source)
    name = describe(source)
    data = read_source(source, access) if data is None else data
    if access.policy.isolate and isolation.is_rare(data):
        found = isolation.decode("image", data, name, access.limits)
        return Picture(found.images[0], found.warnings)
    image = _opened(data, name)
    check_pixels(image.size, name, access.limits)
    if draft is not None and image.format in ("JPEG", "MPO"):
        orientation, _ = exif_orientation(image)
        wanted = draft(swapped(image.size, orientation))
        image.draft("RGB", swapped(wanted, orientation))
    return _decoded(image, name)


def decode_picture(data: bytes, name: str, limits: Limits) -> Picture:
    """`open_picture` of a file's bytes, for a process that does nothing else."""
    image = _opened(data, name)
    check_pixels(image.size, name, limits)
    return _decoded(image, name)


def header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an encoded picture, by its header alone; None if it has none."""
    try:
        return _opened(data, "the picture").size
    except UmeError:
        return None


def load_formats() -> None:
    """Import the readers of all kinds of pictures."""
    _known_formats()


def _check_readable(source: object) -> None:
    """Refuse what is no source: a list of frames is not checked before they are opened."""
    if not isinstance(source, (str, Path, bytes)):
        raise InvalidItem(
            f"a picture cannot be a {type(source).__name__}",
            fix="pass a path, URL, bytes, PIL image or array",
        )


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """The formats this build of Pillow has (AVIF is not in all), and pillow-heif's with it."""
    PILImage.init()
    with suppress(ImportError):
        heif: Any = import_module("pillow_heif")
        heif.register_heif_opener()
    return tuple(f for f in _FORMATS if f in PILImage.OPEN)


def _opened(data: bytes, name: str) -> PILImage.Image:
    """The picture's header, read; its pixels are not yet."""
    # The lock: warning filters belong to the process, and threads would restore each other's.
    with _PILLOW, warnings.catch_warnings():
        # Pillow warns above its own threshold; ours is checked by the caller, before decoding.
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        try:
            return PILImage.open(io.BytesIO(data), formats=_known_formats())
        except UnidentifiedImageError as error:
            if data[4:12] in _HEIF and "HEIF" not in _known_formats():
                raise MediaError(
                    f"{name} is HEIC, which needs pillow-heif", fix="pip install pillow-heif"
                ) from error
            if data.startswith(b"%PDF-"):
                raise MediaError(
                    f"{name}: a PDF, whose pages are drawn from files only",
                    fix="save it, and name a page: Image('doc.pdf#page=1')",
                ) from error
            raise MediaError(
                f"{name} is not an image Pillow can read", fix="convert it to PNG or JPEG"
            ) from error
        except PILImage.DecompressionBombError as error:
            raise LimitExceeded(
                f"{name} is far larger than limits.image_pixels", fix="shrink it first"
            ) from error
        except Exception as error:  # a parser's own failure on hostile bytes
            raise MediaError(f"{name} cannot be opened: {error}", fix="replace the file") from error


def _decoded(image: PILImage.Image, name: str) -> Picture:
    try:
        return as_seen(image, name)
    except UmeError:
        raise
    except MemoryError as error:
        raise LimitExceeded(f"{name} does not fit in memory", fix="shrink it") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError… on broken files
        raise MediaError(
            f"{name} is truncated or damaged: {error}", fix="replace the file"
        ) from error


def _from_array(array: Array, limits: Limits) -> Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidItem(
            f"an image array has shape {array.shape}", fix="use (H, W), (H, W, 3) or (H, W, 4)"
        )
    check_pixels((array.shape[1], array.shape[0]), "the array", limits)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InvalidItem("the image array holds NaN or infinity", fix="clean it first")
        if array.min() < 0 or array.max() > 1:
            raise InvalidItem(
                f"a float image array ranges from {array.min():g} to {array.max():g}",
                fix="scale it to [0, 1], or pass uint8",
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InvalidItem(f"an image array has dtype {array.dtype}", fix="use uint8 or float")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _decoded(PILImage.fromarray(array), "the array")
