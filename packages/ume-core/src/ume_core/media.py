"""Opening images and videos as RGB pixels, within the limits and the policy.

Pixels equal those of the published recipe: PIL for images (alpha over white), PyAV's `to_rgb` for
video frames, as `torchvision.io.read_video` decoded them for qwen-vl-utils.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from ume_core.errors import EngineUnavailable, InvalidItem, LimitExceeded, MediaError, UmeError
from ume_core.fetch import Access, describe, read_source
from ume_core.frames import DEFAULT_FPS, FRAME_FACTOR, frame_count, frame_indices
from ume_core.items import Array, Image, MediaSource, Video

if TYPE_CHECKING:
    from ume_core.limits import Limits

# What is decoded, by Pillow's and FFmpeg's names. Both know formats that run programs (EPS starts
# Ghostscript) or open what the bytes name (concat and HLS playlists: files and URLs; SDP: sockets).
_IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,h264,hevc"
# A picture its owner opened lazily is read on first use, which two threads must not do at once.
_LAZY_PIL, _PILLOW = Lock(), Lock()
Draft: TypeAlias = Callable[[tuple[int, int]], tuple[int, int]]
_MAX_RATE = 240.0  # frames a second beyond which a header is not believed


@dataclass(frozen=True)
class Frames:
    """A decoded video.

    Attributes:
        images: RGB frames the model sees; an even number of them.
        sample_fps: frames a second they were taken at.
    """

    images: list[PILImage.Image]
    sample_fps: float


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """The formats this build of Pillow has (AVIF is not in all)."""
    PILImage.init()
    return tuple(f for f in _IMAGE_FORMATS if f in PILImage.OPEN)


def open_image(
    image: Image, access: Access, data: bytes | None = None, draft: Draft | None = None
) -> PILImage.Image:
    """The picture as an RGB PIL image, alpha laid over white.

    Args:
        data: the bytes of an encoded source, if they were read already.
        draft: the (width, height) wanted of a picture of some (width, height); a JPEG is then
            decoded at the smallest of 1/2, 1/4, 1/8 of its size that is not below. Other pixels.

    Raises:
        MediaError: it cannot be decoded. LimitExceeded: it has too many pixels.
        InvalidItem: an array of the wrong shape, or with NaN. PolicyViolation: see `read_source`.
    """
    return _open(image.source, access, data, draft)


def load_video(video: Video, access: Access) -> Frames:
    """The frames the model sees of a video file, or the given frames (padded to an even number).

    Raises:
        MediaError, LimitExceeded, InvalidItem, PolicyViolation: as for `open_image`.
    """
    if video.fps is not None and video.nframes is not None:
        raise InvalidItem("both fps and nframes are given", fix="pass one of them")
    if video.fps is not None and not video.fps > 0:
        raise InvalidItem(f"fps is {video.fps}", fix="pass a positive number")
    sources = video.frames
    if sources is None:
        return _decode_file(video, access)
    if not sources:
        raise InvalidItem("the video has no frames", fix="pass at least one frame")
    _check_frames(len(sources), access.limits)
    images: list[PILImage.Image] = []
    pixels = 0
    for index, source in enumerate(sources):
        try:
            images.append(_open(source, access))
        except UmeError as error:
            raise type(error)(f"frame {index}: {error.cause}", fix=error.fix) from error
        pixels += images[-1].width * images[-1].height
        _check_video_pixels(pixels, f"the first {index + 1} frames", access.limits)
    images += [images[-1]] * (-len(images) % FRAME_FACTOR)
    return Frames(images, video.sample_fps or DEFAULT_FPS)


def _open(
    source: MediaSource, access: Access, data: bytes | None = None, draft: Draft | None = None
) -> PILImage.Image:
    if isinstance(source, np.ndarray):
        return _from_array(source, access.limits)
    if isinstance(source, PILImage.Image):
        if source.format is not None and source.format not in _IMAGE_FORMATS:
            raise MediaError(f"{source.format} pictures are not decoded", fix="convert it to PNG")
        _check_pixels(source.size, "the PIL image", access.limits)
        with _LAZY_PIL:
            return _decoded(source, "the PIL image")
    name = describe(source)
    data = read_source(source, access) if data is None else data
    # The lock: warning filters belong to the process, and threads would restore each other's.
    with _PILLOW, warnings.catch_warnings():
        # Pillow warns above its own threshold; ours is checked just below, before decoding.
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        try:
            image = PILImage.open(io.BytesIO(data), formats=_known_formats())
        except UnidentifiedImageError as error:
            raise MediaError(
                f"{name} is not an image Pillow can read", fix="convert it to PNG or JPEG"
            ) from error
        except PILImage.DecompressionBombError as error:
            raise LimitExceeded(
                f"{name} is far larger than limits.image_pixels", fix="shrink it first"
            ) from error
        except Exception as error:  # a parser's own failure on hostile bytes
            raise MediaError(f"{name} cannot be opened: {error}", fix="replace the file") from error
    _check_pixels(image.size, name, access.limits)
    if draft is not None:
        image.draft("RGB", draft(image.size))
    return _decoded(image, name)


def _decoded(image: PILImage.Image, name: str) -> PILImage.Image:
    try:
        image.load()
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = PILImage.new("RGB", rgba.size, (255, 255, 255))
            white.paste(rgba, mask=rgba.getchannel("A"))
            return white
        if image.mode.startswith(("I;16", "I", "F")) and image.mode != "1":
            # Pillow's own conversion clips 16-bit greys to white.
            return _from_high_depth(image)
        return image.convert("RGB")
    except MemoryError as error:
        raise LimitExceeded(f"{name} does not fit in memory", fix="shrink it") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError… on broken files
        raise MediaError(
            f"{name} is truncated or damaged: {error}", fix="replace the file"
        ) from error


def _from_high_depth(image: PILImage.Image) -> PILImage.Image:
    values = np.asarray(image, dtype=np.float32)
    top = 65535.0 if values.max(initial=0) > 255 else 255.0
    return PILImage.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")


def _check_pixels(size: tuple[int, int], name: str, limits: Limits) -> None:
    pixels = size[0] * size[1]
    if pixels > limits.image_pixels:
        raise LimitExceeded(
            f"{name} has {size[0]}x{size[1]} pixels, more than limits.image_pixels "
            f"({limits.image_pixels:,})",
            fix="shrink it or raise the limit",
        )
    if pixels == 0:
        raise MediaError(f"{name} has no pixels", fix="replace it")


def _check_frames(count: int, limits: Limits) -> None:
    if count > limits.video_frames:
        raise LimitExceeded(
            f"the video gives the model {count} frames, more than limits.video_frames "
            f"({limits.video_frames})",
            fix="pass a lower fps or nframes, or raise the limit",
        )


def _from_array(array: Array, limits: Limits) -> PILImage.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidItem(
            f"an image array has shape {array.shape}", fix="use (H, W), (H, W, 3) or (H, W, 4)"
        )
    _check_pixels((array.shape[1], array.shape[0]), "the array", limits)
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


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise EngineUnavailable(
            "video files need PyAV", fix="pip install 'av>=13', or pass a list of frames"
        ) from error
    return av


def _decode_file(video: Video, access: Access) -> Frames:
    source = video.source
    if not isinstance(source, (str, Path, bytes)):
        raise InvalidItem(f"a video cannot be a {type(source).__name__}", fix="see Video")
    name = describe(source)
    data = read_source(source, access)
    av = _import_av()
    try:
        return _select_frames(av, data, video, name, access.limits)
    except UmeError:
        raise
    except MemoryError as error:
        raise LimitExceeded(f"{name} does not fit in memory", fix="shrink it") from error
    except Exception as error:  # FFmpeg's errors, and what its bindings raise on hostile bytes
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise MediaError(
            f"{name} cannot be decoded as a video: {reason}", fix="convert it to MP4 (H.264)"
        ) from error


def _refuse_open(*_: Any, **__: Any) -> Any:
    raise PermissionError("a video may not open anything beside itself")


def _container(av: Any, data: bytes) -> Any:
    return av.open(
        io.BytesIO(data),
        metadata_errors="replace",
        io_open=_refuse_open,
        container_options={"format_whitelist": _VIDEO_FORMATS},
    )


def _frames(container: Any, name: str, limits: Limits) -> Iterator[tuple[int, Any]]:
    """Numbered frames; every one is checked, since headers lie and sizes can change midway."""
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise MediaError(f"{name} uses an unknown codec", fix="convert it to MP4 (H.264)")
    stream.thread_type = "AUTO"
    size: tuple[int, int] | None = None
    for number, frame in enumerate(container.decode(stream)):
        found = (int(frame.width), int(frame.height))
        _check_pixels(found, f"{name}, frame {number},", limits)
        if size is not None and found != size:
            raise MediaError(f"{name} changes its size at frame {number}", fix="convert it to MP4")
        size = found
        yield number, frame


def _select_frames(av: Any, data: bytes, video: Video, name: str, limits: Limits) -> Frames:
    """Two passes: count the frames, then convert only those the model sees."""
    start = video.video_start or 0.0
    end = video.video_end if video.video_end is not None else float("inf")
    numbers: list[int] = []
    pixels = 0
    with _container(av, data) as container:
        if not container.streams.video:
            raise MediaError(f"{name} has no video stream", fix="pass a video file")
        stream = container.streams.video[0]
        rate = min(float(stream.average_rate or stream.guessed_rate or 24), _MAX_RATE)
        for number, frame in _frames(container, name, limits):
            seconds = frame.time if frame.time is not None else number / rate
            if start <= seconds <= end:
                numbers.append(number)
                pixels = int(frame.width) * int(frame.height)
            if number / rate > limits.video_seconds:
                raise LimitExceeded(
                    f"{name} is longer than limits.video_seconds ({limits.video_seconds:g})",
                    fix="cut it, or raise the limit",
                )
            if seconds > end:
                break
    if not numbers:
        raise MediaError(f"{name} has no frames to show", fix="check video_start and video_end")
    if len(numbers) == 1:
        numbers *= FRAME_FACTOR
    total = len(numbers)
    count = frame_count(video.sampling, total, rate)
    _check_frames(count, limits)
    _check_video_pixels(count * pixels, f"{count} frames of {name}", limits)
    chosen = [numbers[i] for i in frame_indices(count, total)]
    images: dict[int, PILImage.Image] = {}
    with _container(av, data) as container:
        for number, frame in _frames(container, name, limits):
            if number in chosen:
                images[number] = frame.to_rgb().to_image()
            if number >= chosen[-1]:
                break
    sample_fps = count / max(total, 1e-6) * rate
    return Frames([images[number] for number in chosen], sample_fps)


def _check_video_pixels(pixels: int, what: str, limits: Limits) -> None:
    if pixels > limits.video_pixels:
        raise LimitExceeded(
            f"{what} have {pixels:,} pixels, more than limits.video_pixels "
            f"({limits.video_pixels:,})",
            fix="pass fewer frames, shrink the video, or raise the limit",
        )
