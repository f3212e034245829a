"""Opening clips: files and lists of frames to the frames the model sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

import ume_core.media.isolation as isolation
import ume_core.media.streams as streams
from ume_core.errors import InvalidItem, LimitExceeded, MediaError, UmeError
from ume_core.fetch import Access, describe, read_source
from ume_core.frames import DEFAULT_FPS, FRAME_FACTOR
from ume_core.items import MediaSource, Video
from ume_core.limits import Limits
from ume_core.media.bounds import check_frames, check_pixels, check_video_pixels
from ume_core.media.pictures import open_source
from ume_core.media.shown import Shown
from ume_core.media.timeline import Stamps, choose, timeline

# Frames beyond the end wanted or allowed after which reading stops: not at the first, since a
# damaged time stamp may lie far off.
_BEYOND = 32
_MAX_RATE = 240.0  # frames a second that `Limits.video_seconds` allows at most to be decoded


@dataclass(frozen=True)
class Frames:
    """A decoded video.

    Attributes:
        images: RGB frames the model sees, upright; an even number of them.
        sample_fps: frames a second they were taken at.
        warnings: what was noticed that did not stop it (damage, time stamps), as sentences.
    """

    images: list[PILImage.Image]
    sample_fps: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scan:
    """A first pass over a clip.

    Attributes:
        stamps: when its frames are shown.
        size: (width, height) that most of them are shown at.
        damage: what could not be read.
        warnings: that and more, as sentences.
    """

    stamps: Stamps
    size: tuple[int, int]
    damage: streams.Damage
    warnings: tuple[str, ...]


def load_video(video: Video, access: Access) -> Frames:
    """The frames the model sees of a video file, or the given frames (padded to an even number).

    `ume_core.media.timeline` says which frames of a file those are.

    Raises:
        MediaError, LimitExceeded, InvalidItem, PolicyViolation: as for `open_picture`.
    """
    if video.fps is not None and video.nframes is not None:
        raise InvalidItem("both fps and nframes are given", fix="pass one of them")
    if video.fps is not None and not video.fps > 0:
        raise InvalidItem(f"fps is {video.fps}", fix="pass a positive number")
    sources = video.frames
    return _decode_file(video, access) if sources is None else _listed(sources, video, access)


def _listed(sources: list[MediaSource], video: Video, access: Access) -> Frames:
    if not sources:
        raise InvalidItem("the video has no frames", fix="pass at least one frame")
    check_frames(len(sources), access.limits)
    images: list[PILImage.Image] = []
    warnings: list[str] = []
    pixels = 0
    for index, source in enumerate(sources):
        try:
            picture = open_source(source, access)
        except UmeError as error:
            raise type(error)(f"frame {index}: {error.cause}", fix=error.fix) from error
        images.append(picture.image)
        warnings += [f"frame {index}: {warning}" for warning in picture.warnings]
        pixels += picture.image.width * picture.image.height
        check_video_pixels(pixels, f"the first {index + 1} frames", access.limits)
    images += [images[-1]] * (-len(images) % FRAME_FACTOR)
    return Frames(images, video.sample_fps or DEFAULT_FPS, tuple(warnings))


def _decode_file(video: Video, access: Access) -> Frames:
    source = video.source
    if not isinstance(source, (str, Path, bytes)):
        raise InvalidItem(f"a video cannot be a {type(source).__name__}", fix="see Video")
    name = describe(source)
    data = read_source(source, access)
    if not access.policy.isolate:
        return decode_clip(data, video, name, access.limits)
    options = {field: value for field, value in vars(video).items() if field != "source"}
    found = isolation.decode("video", data, name, access.limits, options)
    return Frames(found.images, found.fps, found.warnings)


def decode_clip(data: bytes, video: Video, name: str, limits: Limits) -> Frames:
    """The frames the model sees of a clip's bytes.

    Raises:
        MediaError, LimitExceeded, InvalidItem: as for `load_video`.
    """
    streams.import_av()
    with _media_errors(name):
        return _select_frames(data, video, name, limits)


@contextmanager
def _media_errors(name: str) -> Generator[None]:
    """FFmpeg's errors, and what its bindings raise on hostile bytes, as ours."""
    try:
        yield
    except UmeError:
        raise
    except MemoryError as error:
        raise LimitExceeded(f"{name} does not fit in memory", fix="shrink it") from error
    except Exception as error:
        raise _undecodable(name, streams.reason(error)) from error


def _undecodable(name: str, reason: str) -> MediaError:
    return MediaError(
        f"{name} cannot be decoded as a video: {reason}",
        fix="if a player shows it, convert it to MP4 (H.264); if none does, replace the file",
    )


def _select_frames(data: bytes, video: Video, name: str, limits: Limits) -> Frames:
    """Two passes: see when frames are shown, then convert only those the model sees."""
    start = video.video_start or 0.0
    end = video.video_end if video.video_end is not None else float("inf")
    scan = _scan(data, name, limits, end, threads=True)
    # Threads that decode damaged data make something else of it in every run.
    threads = not scan.damage
    if not threads:
        scan = _scan(data, name, limits, end, threads=False)
    line = timeline(scan.stamps, name)
    if line.seconds[-1] > limits.video_seconds and end > limits.video_seconds:
        raise _too_long(name, limits)
    choice = choose(line, video.sampling, start, end, name)
    check_frames(len(choice.numbers), limits)
    pixels = scan.size[0] * scan.size[1]
    check_video_pixels(
        len(choice.numbers) * pixels, f"{len(choice.numbers)} frames of {name}", limits
    )
    images = _convert(data, name, limits, scan.size, choice.numbers, threads=threads)
    return Frames(images, choice.sample_fps, (*scan.warnings, *line.warnings))


def _scan(data: bytes, name: str, limits: Limits, end: float, *, threads: bool) -> _Scan:
    """Decode all of a clip (up to `end` seconds), keeping times and sizes only."""
    sizes: Counter[tuple[int, int]] = Counter()
    beyond = 0
    last = min(end, limits.video_seconds)
    with streams.open_clip(data, name, threads=threads) as reading:
        clock = streams.Clock(reading.stream)
        for number, shown in enumerate(_checked(reading, name, limits)):
            if number > limits.video_seconds * _MAX_RATE:
                raise _too_long(name, limits)
            now = clock.note(shown.frame)
            sizes[shown.size] += 1
            beyond += now is not None and now > last
            if beyond > _BEYOND:
                break
        rate, jumps = streams.header_rate(reading), streams.may_jump(reading)
        stamps = Stamps(clock.seconds(), reading.tail, rate, jumps)
    damage = reading.damage
    if not sizes:
        raise _undecodable(name, damage.reason or "it has no frames")
    warnings = damage.sentences(name)
    (size, _), *others = sizes.most_common()
    if others:
        warnings.append(f"{name} changes its size; all frames were made {size[0]}x{size[1]}.")
    return _Scan(stamps, size, damage, tuple(warnings))


def _convert(
    data: bytes, name: str, limits: Limits, size: tuple[int, int], numbers: list[int],
    *, threads: bool,
) -> list[PILImage.Image]:  # fmt: skip
    """Pictures of the frames of these numbers, which ascend."""
    wanted = set(numbers)
    images: dict[int, PILImage.Image] = {}
    with streams.open_clip(data, name, threads=threads) as reading:
        for number, shown in enumerate(_checked(reading, name, limits)):
            if number in wanted:
                images[number] = shown.picture(size)
            if number >= numbers[-1]:
                break
    return [images[number] for number in numbers]


def _checked(reading: streams.Reading, name: str, limits: Limits) -> Iterator[Shown]:
    """Every frame, each of a size that is allowed: headers lie, and sizes can change midway."""
    for number, shown in enumerate(reading.frames()):
        what = f"{name}, frame {number},"
        check_pixels((int(shown.frame.width), int(shown.frame.height)), what, limits)
        check_pixels(shown.size, what, limits)
        yield shown


def _too_long(name: str, limits: Limits) -> LimitExceeded:
    return LimitExceeded(
        f"{name} is longer than limits.video_seconds ({limits.video_seconds:g})",
        fix="cut it, or raise the limit",
    )
