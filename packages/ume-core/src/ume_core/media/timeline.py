"""When the frames of a clip are shown, and which of them the model sees.

The published recipe samples by frame number: `count` numbers spread evenly over all frames, the
count from the header's frame rate. That is right where frames are evenly spaced and the header
tells the truth, and then exactly that is done here. In particular:

- Evenly spaced (each frame within half an interval of its even place): by number. The rate is the
  header's where the time stamps agree with it, else the one they show.
- Unevenly spaced (variable frame rate): by time. At each of `count` moments spread evenly over the
  clip, the frame on screen, which a player would show then.
- No time stamps, or mostly disordered ones: by number at the header's rate, which a warning says.

Seconds count from the stream's start, whatever its first time stamp is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ume_core.errors import MediaError
from ume_core.frames import FRAME_FACTOR, FrameSampling, frame_count, frame_indices

Seconds = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_MAX_HEADER_RATE = 240.0  # frames a second beyond which a header is not believed without proof
_DISORDERED = 0.1  # share of time stamps out of order beyond which none is believed
_ROUNDING = 1e-6  # seconds
# Where a format allows jumps (MPEG-TS and PS, Ogg), steps beyond these are taken for one, as the
# `ffmpeg` command does: -dts_delta_threshold's default, and its tolerance backwards.
_JUMP_AHEAD, _JUMP_BACK = 10.0, 0.1
# A gap worth a word: seconds, usual intervals; how many there may be, and how uneven the rest.
_HOLE, _HOLE_FRAMES, _MOST_HOLES, _UNEVEN = 0.5, 10, 3, 0.02
_AGREES = 0.01  # by which a header's rate may differ from the time stamps', of the clip's length


@dataclass(frozen=True)
class Stamps:
    """What a pass over a clip noted.

    Attributes:
        seconds: when each frame is shown, since the stream's start, in decoding order; None where
            the file does not say.
        tail: seconds the last frame stays on screen; 0 where the file does not say.
        header_rate: frames a second, by the header; None where it does not say.
        jumps: whether the format allows time stamps to start anew midway.
    """

    seconds: Sequence[float | None]
    tail: float
    header_rate: float | None
    jumps: bool


@dataclass(frozen=True)
class Timeline:
    """When the frames of a clip are shown.

    Attributes:
        seconds: float64 (frames,), ascending.
        end: when the last one leaves the screen.
        rate: frames a second.
        even: whether frames are evenly spaced.
        warnings: what was noticed, as sentences.
    """

    seconds: Seconds
    end: float
    rate: float
    even: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The frames the model sees.

    Attributes:
        numbers: their numbers in decoding order, ascending; one may come twice.
        sample_fps: frames a second they were taken at.
    """

    numbers: list[int]
    sample_fps: float


def timeline(stamps: Stamps, name: str) -> Timeline:
    """Order the time stamps of at least one frame."""
    header = min(stamps.header_rate or 24.0, _MAX_HEADER_RATE)
    given = np.array([np.nan if s is None else s for s in stamps.seconds], dtype=np.float64)
    seconds, warning = _ordered(given, header, stamps.jumps, name)
    warnings = (warning,) if warning else ()
    if seconds is None or seconds[-1] - seconds[0] < _ROUNDING:
        first = 0.0 if seconds is None else float(seconds[0])
        seconds = first + np.arange(len(given)) / header
        return Timeline(seconds, float(seconds[-1]) + 1 / header, header, True, warnings)
    if not _is_even(seconds):
        # Where its packet does not say, the last frame stays as long as most.
        end = float(seconds[-1]) + (stamps.tail or _usual(np.diff(seconds), header))
        rate = len(seconds) / (end - float(seconds[0]))
        return Timeline(seconds, end, rate, False, (*warnings, *_holes(seconds, name)))
    rate = stamps.header_rate or 0.0
    if rate <= 0 or not _agrees(seconds, rate):
        rate = (len(seconds) - 1) / float(seconds[-1] - seconds[0])
    return Timeline(seconds, float(seconds[-1]) + 1 / rate, rate, True, warnings)


def _is_even(seconds: Seconds) -> bool:
    """Whether each frame lies within half an interval of its even place."""
    places: Seconds = np.linspace(float(seconds[0]), float(seconds[-1]), len(seconds))
    half = (seconds[-1] - seconds[0]) / (len(seconds) - 1) / 2
    return bool(np.abs(seconds - places).max() <= half)


def _agrees(seconds: Seconds, rate: float) -> bool:
    """Whether evenly spaced time stamps are those of this rate."""
    span = float(seconds[-1] - seconds[0])
    return abs(span - (len(seconds) - 1) / rate) <= 0.5 / rate + _AGREES * span


def choose(line: Timeline, sampling: FrameSampling, start: float, end: float, name: str) -> Choice:
    """The frames taken between two moments, in seconds since the stream's start.

    Raises:
        MediaError: no frame is on screen between them.
        InvalidItem: the sampling asks for more frames than there are.
    """
    inside = _inside(line, start, end)
    if not inside:
        raise MediaError(
            f"{name} has no frames to show between {start:g} and {end:g} s: "
            f"it lasts {line.end - line.seconds[0]:.3g} s",
            fix="check video_start and video_end",
        )
    if len(inside) == 1:
        inside *= FRAME_FACTOR
    total = len(inside)
    if line.even:
        count = frame_count(sampling, total, line.rate)
        numbers = [inside[i] for i in frame_indices(count, total)]
        return Choice(numbers, count / total * line.rate)
    first = max(float(line.seconds[inside[0]]), start)
    length = max(min(line.end, end) - first, _ROUNDING)
    count = frame_count(sampling, total, total / length)
    moments = first + length * np.arange(count) / max(count - 1, 1)
    shown = np.searchsorted(line.seconds, moments + _ROUNDING, side="right") - 1
    return Choice([min(max(int(n), inside[0]), inside[-1]) for n in shown], count / length)


def _holes(seconds: Seconds, name: str) -> list[str]:
    """Where an else even clip shows nothing new for long: what a damaged container leaves."""
    steps = np.diff(seconds)
    usual = float(np.median(steps))
    holes = steps >= max(_HOLE_FRAMES * usual, _HOLE)
    even = np.abs(steps[~holes] - usual) <= 0.1 * usual + 0.001
    if not 0 < holes.sum() <= _MOST_HOLES or even.mean() < 1 - _UNEVEN:
        return []
    return [
        f"From {seconds[i]:.3g} to {seconds[i + 1]:.3g} s no new frame of {name} comes, though one "
        f"every {usual:.2g} s is usual."
        for i in np.flatnonzero(holes)
    ]


def _inside(line: Timeline, start: float, end: float) -> list[int]:
    """Numbers of the frames that come up between two moments.

    Where frames are uneven, or none comes up, also of the one that is on screen at the first.
    """
    low = int(np.searchsorted(line.seconds, start - _ROUNDING, side="left"))
    high = int(np.searchsorted(line.seconds, end + _ROUNDING, side="right"))
    before = low > 0 and start <= end and start < line.end
    if low < high:
        before = before and not line.even and line.seconds[low] > start + _ROUNDING
    return list(range(low - before, max(low, high)))


def _ordered(
    given: Seconds, header: float, jumps: bool, name: str
) -> tuple[Seconds | None, str | None]:
    """The time stamps in order, or None where they cannot be believed; and a warning."""
    known = np.flatnonzero(np.isfinite(given))
    if not len(known):
        return None, None  # raw streams have none
    warning = None
    values = given[known]
    if jumps:
        values, warning = _joined(values, header, name)
    if len(known) == len(given) and not (np.diff(values) < 0).any():
        return values, warning
    ordered = _longest_ascending(values)
    if len(ordered) < len(values) * (1 - _DISORDERED) or len(values) < len(given) / 2:
        # AVI has times of decoding, in that order; frames come out in the order of presentation.
        inorder = np.sort(values)
        if len(values) == len(given) and _is_even(inorder) and _agrees(inorder, header):
            return inorder, warning
        return None, (
            f"The time stamps of {name} are missing or out of order; its frames were taken by "
            f"number, at {header:g} a second."
        )
    return _filled(known[ordered], values[ordered], len(given), header), warning


def _filled(places: Places, values: Seconds, count: int, header: float) -> Seconds:
    """Time stamps of all frames, those not known between their neighbours'."""
    numbers = np.arange(count)
    seconds = np.interp(numbers, places, values)
    step = _usual(np.diff(values) / np.diff(places), header)
    # Beyond the first and the last, where there is nothing to lie between.
    seconds += step * np.minimum(numbers - places[0], 0)
    seconds += step * np.maximum(numbers - places[-1], 0)
    return seconds


def _usual(steps: Seconds, header: float) -> float:
    usual = float(np.median(steps)) if len(steps) else 0.0
    return usual if usual > 0 else 1 / header


def _joined(values: Seconds, header: float, name: str) -> tuple[Seconds, str | None]:
    """Time stamps without jumps: recordings put together, a counter that starts anew."""
    steps = np.diff(values)
    jumps = (steps > _JUMP_AHEAD) | (steps < -_JUMP_BACK)
    if not jumps.any():
        return values, None
    steps[jumps] = _usual(steps[~jumps], header)
    joined = values[0] + np.concatenate([[0.0], np.cumsum(steps)])
    place = joined[int(np.flatnonzero(jumps)[0]) + 1]
    return joined, f"The time stamps of {name} jump at {place:.3g} s; its parts were joined there."


def _longest_ascending(values: Seconds) -> list[int]:
    """Indexes of a longest subsequence that does not descend (patience sorting)."""
    tops: list[float] = []  # the least last value of a subsequence of each length
    ends: list[int] = []  # and where it stands
    before = [-1] * len(values)
    for index, value in enumerate(values.tolist()):
        pile = bisect_right(tops, value)
        before[index] = ends[pile - 1] if pile else -1
        tops[pile : pile + 1] = [value]
        ends[pile : pile + 1] = [index]
    out: list[int] = []
    index = ends[-1]
    while index >= 0:
        out.append(index)
        index = before[index]
    return out[::-1]
