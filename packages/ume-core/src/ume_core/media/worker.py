"""The process in which `ume_core.media.isolation` has media decoded.

It reads jobs from its standard input until that ends, and answers on its standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from io import BufferedReader
from typing import IO, Any, cast

from PIL import Image as PILImage

from ume_core.errors import EngineUnavailable, UmeError
from ume_core.items import Video
from ume_core.limits import Limits
from ume_core.media.clips import decode_clip
from ume_core.media.isolation import read_exactly, read_header, write_header
from ume_core.media.pictures import decode_picture, load_formats
from ume_core.media.streams import import_av

_MOST_JOB = 1 << 20  # bytes of a job's header
_ROOM = 4 << 30  # bytes of address space beside libraries and pixels: threads, a decoder's frames
_FILES = 64
_GRACE = 5.0  # seconds after its time in which the parent should have ended this process


def main() -> None:
    """Answer jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to obey: what runs is finished
    jobs = cast("BufferedReader", sys.stdin.buffer)
    # A library's words must not come between answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    load_formats()
    with suppress(EngineUnavailable):  # said when a clip comes
        import_av()
    _confine()
    _say(answers, {})
    while True:
        try:
            job = read_header(jobs, _MOST_JOB)
        except EOFError:
            return
        data = bytes(read_exactly(jobs, int(job["size"])))
        limits = Limits(**job["limits"])
        _bound(limits)
        try:
            images, fps, warnings = _decoded(job, data, limits)
        except UmeError as error:
            told = [type(error).__name__, error.cause, error.fix or ""]
            _say(answers, {"error": told})
        else:
            sizes = [image.size for image in images]
            _say(answers, {"sizes": sizes, "fps": fps, "warnings": warnings}, images)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _decoded(
    job: dict[str, Any], data: bytes, limits: Limits
) -> tuple[list[PILImage.Image], float, tuple[str, ...]]:
    if job["kind"] == "video":
        frames = decode_clip(data, Video(data, **job["options"]), job["name"], limits)
        return frames.images, frames.sample_fps, frames.warnings
    picture = decode_picture(data, job["name"], limits)
    return [picture.image], 0.0, picture.warnings


def _say(
    answers: IO[bytes], header: dict[str, Any], images: list[PILImage.Image] | None = None
) -> None:
    write_header(answers, header)
    for image in images or []:
        answers.write(image.tobytes())
    answers.flush()


def _confine() -> None:
    """No dumps of memory, no files written, few opened: all libraries are loaded by now."""
    with suppress(ImportError):  # Windows has no such limits
        import resource

        for what, most in (
            (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, _FILES)
        ):  # fmt: skip
            resource.setrlimit(what, (most, most))


def _bound(limits: Limits) -> None:
    """Time and memory of one job, kept by the kernel, whatever becomes of the parent."""
    signal.setitimer(signal.ITIMER_REAL, limits.decode_seconds + _GRACE)
    with suppress(ImportError, OSError):
        import resource
        from pathlib import Path

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = held + _ROOM + 2 * 3 * max(limits.video_pixels, limits.image_pixels)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    main()
