"""Sound pictures and clips, one of every kind that is opened; small, so that runs are many."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from PIL import ExifTags, features
from PIL import Image as PILImage

_SIZE = (48, 40)
_FRAMES = 16

# name, Pillow's format, mode, options of the writer
_PICTURES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("png", "PNG", "RGB", {}), ("png", "PNG", "RGBA", {}), ("png", "PNG", "P", {}),
    ("png", "PNG", "1", {}), ("png", "PNG", "I;16", {}), ("png", "PNG", "LA", {}),
    ("jpeg", "JPEG", "RGB", {}), ("jpeg", "JPEG", "L", {}), ("jpeg", "JPEG", "CMYK", {}),
    ("jpeg", "JPEG", "RGB", {"progressive": True}),
    ("gif", "GIF", "P", {}), ("gif", "GIF", "P", {"save_all": True, "append": True}),
    ("webp", "WEBP", "RGB", {}), ("webp", "WEBP", "RGBA", {"lossless": True}),
    ("bmp", "BMP", "RGB", {}), ("bmp", "BMP", "P", {}), ("bmp", "BMP", "1", {}),
    ("tiff", "TIFF", "RGB", {}), ("tiff", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("tiff", "TIFF", "RGB", {"compression": "jpeg"}), ("tiff", "TIFF", "I;16", {}),
    ("tiff", "TIFF", "F", {}), ("tiff", "TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ("tiff", "TIFF", "1", {"compression": "group4"}), ("tiff", "TIFF", "I", {}),
    ("ppm", "PPM", "RGB", {}), ("ppm", "PPM", "L", {}), ("ppm", "PPM", "F", {}),
    ("avif", "AVIF", "RGB", {}), ("avif", "AVIF", "RGBA", {}),
    ("mpo", "MPO", "RGB", {"save_all": True, "append": True}),
)  # fmt: skip
_WITH_EXIF = frozenset({"PNG", "JPEG", "WEBP", "TIFF", "AVIF", "MPO"})

# file name (its suffix is the container), codec, pixel format
_CLIPS: tuple[tuple[str, str, str], ...] = (
    ("h264.mp4", "libx264", "yuv420p"), ("h264.mov", "libx264", "yuv444p"),
    ("h264.mkv", "libx264", "yuv420p"), ("h264.ts", "libx264", "yuv420p"),
    ("h264.avi", "libx264", "yuv420p"), ("h264.flv", "libx264", "yuv420p"),
    ("raw.h264", "libx264", "yuv420p"), ("hevc.mp4", "libx265", "yuv420p10le"),
    ("hevc.ts", "libx265", "yuv420p"), ("mpeg4.avi", "mpeg4", "yuv420p"),
    ("mpeg4.mp4", "mpeg4", "yuv420p"), ("mpeg2.mpg", "mpeg2video", "yuv420p"),
    ("mpeg2.ts", "mpeg2video", "yuv420p"), ("mpeg1.mpg", "mpeg1video", "yuv420p"),
    ("mjpeg.avi", "mjpeg", "yuvj420p"), ("mjpeg.mov", "mjpeg", "yuvj420p"),
    ("vp8.webm", "libvpx", "yuv420p"), ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ("vp9.mkv", "libvpx-vp9", "yuv420p"), ("av1.mp4", "libsvtav1", "yuv420p"),
    ("av1.webm", "libsvtav1", "yuv420p"), ("ffv1.mkv", "ffv1", "gray16le"),
    ("prores.mov", "prores_ks", "yuv422p10le"), ("qtrle.mov", "qtrle", "argb"),
    ("flv1.flv", "flv", "yuv420p"), ("h263.3gp", "h263", "yuv420p"),
    ("huffyuv.avi", "huffyuv", "yuv422p"), ("utvideo.avi", "utvideo", "gbrp"),
    ("raw.avi", "rawvideo", "bgr24"), ("png.mov", "png", "rgba"),
    ("wmv2.avi", "wmv2", "yuv420p"), ("msmpeg4.avi", "msmpeg4v2", "yuv420p"),
    ("cinepak.avi", "cinepak", "rgb24"), ("svq1.mov", "svq1", "yuv410p"),
    ("raw.m1v", "mpeg1video", "yuv420p"),
)  # fmt: skip
_QUIET = {"libx265": {"x265-params": "log-level=none"}}


def pictures() -> Iterator[tuple[str, bytes]]:
    """(format, file) of every kind this Pillow writes."""
    for number, (name, kind, mode, options) in enumerate(_PICTURES):
        if kind == "AVIF" and "avif" not in features.get_supported():
            continue
        options = {**options}
        if options.pop("append", False):
            options["append_images"] = [_picture(mode, number + 1)]
        if kind in _WITH_EXIF:
            tags = PILImage.Exif()
            tags[ExifTags.Base.Orientation] = number % 8 + 1
            options["exif"] = tags
        buffer = io.BytesIO()
        _picture(mode, number).save(buffer, kind, **options)
        yield name, buffer.getvalue()


def _picture(mode: str, seed: int) -> PILImage.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = PILImage.fromarray(noise).resize(_SIZE, PILImage.Resampling.BICUBIC)
    if mode == "I;16":
        return PILImage.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image.putalpha(image.convert("L"))
    if mode == "F":
        return PILImage.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


def clips(*only: str) -> Iterator[tuple[str, bytes]]:
    """(name, file) of every container and codec this PyAV writes, or of those named."""
    for name, codec, pixels in _CLIPS:
        if only and name not in only:
            continue
        try:
            av.Codec(codec, "w")
        except ValueError:
            continue
        yield name, _clip(name, codec, pixels)


def _clip(name: str, codec: str, pixels: str) -> bytes:
    suffix = name.rpartition(".")[2]
    kind = {"ts": "mpegts", "mkv": "matroska", "mpg": "mpeg", "m1v": "mpeg1video"}.get(suffix)
    size = (128, 96) if codec in ("h263", "libsvtav1") else (64, 48)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind or suffix) as out:
        stream = out.add_stream(codec, rate=25, options=_QUIET.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for number in range(_FRAMES):
            frame = av.VideoFrame.from_image(_picture("RGB", number // 4).resize(size))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()
