"""Frames are taken by when they are shown, not by what headers claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen_vl_utils.vision_process as upstream
import torch
from PIL import Image as PILImage

from ume_core import LimitExceeded, Limits, MediaError
from ume_core.fetch import Access
from ume_core.frames import FrameSampling
from ume_core.items import Video
from ume_core.media import load_video
from ume_core.media.timeline import Choice, Stamps, Timeline, choose, timeline

Clip = Callable[..., Path]
Numbered = Callable[[int], list[PILImage.Image]]
NumberOf = Callable[[PILImage.Image], int]
MS = Fraction(1, 1000)
EVERYTHING = (0.0, float("inf"))


def lined(
    seconds: Sequence[float | None], rate: float | None = None, *, tail: float = 0.0,
    jumps: bool = False,
) -> Timeline:  # fmt: skip
    return timeline(Stamps(seconds, tail, rate, jumps), "x.mp4")


def chosen(line: Timeline, window: tuple[float, float] = EVERYTHING, **how: Any) -> Choice:
    return choose(line, FrameSampling(**how), *window, "x.mp4")


# The rule: by number where frames are even, exactly as the recipe


@pytest.mark.parametrize("rate", [5.0, 23.976, 25.0, 29.97, 60.0, 480.0])
@pytest.mark.parametrize("total", [2, 5, 32, 301])
@pytest.mark.parametrize("options", [{}, {"fps": 1.0}, {"nframes": 2}, {"fps": 8.0}])
def test_even_frames_are_chosen_exactly_as_the_recipe_does(
    rate: float, total: int, options: dict[str, Any]
) -> None:
    # Matroska and WebM round to milliseconds, which must not show.
    for seconds in (np.arange(total) / rate, np.round(np.arange(total) / rate, 3)):
        line = lined(seconds.tolist(), rate)
        count = upstream.smart_nframes(dict(options), total, rate)
        picked = chosen(line, **options)
        assert picked.numbers == torch.linspace(0, total - 1, count).round().long().tolist()
        assert picked.sample_fps == count / total * rate
        assert not line.warnings


@pytest.mark.parametrize("header", [1000.0, 240.0, 50.0, 1.0, None])
def test_a_header_that_contradicts_the_time_stamps_is_not_believed(header: float | None) -> None:
    line = lined((np.arange(300) * 0.033).tolist(), header)
    assert line.even and line.rate == pytest.approx(1 / 0.033)
    picked = chosen(line)
    assert len(picked.numbers) == 18 and picked.sample_fps == pytest.approx(18 / 9.9)


def test_without_time_stamps_the_header_is_all_there_is() -> None:
    line = lined([None] * 50, 25.0)
    assert line.even and line.rate == 25.0 and not line.warnings
    assert len(chosen(line).numbers) == 4
    assert lined([None] * 50, 1e6).rate == 240.0  # nothing bears that out


# Unequal intervals: by time


def test_uneven_frames_are_those_on_screen_at_even_moments() -> None:
    # A talk recorded by screen: one slide for ten seconds, then motion for two.
    seconds = [0.0, *(10 + np.arange(40) / 20)]
    line = lined(seconds, 20.0)
    assert not line.even
    picked = chosen(line)
    length = 12.0
    assert picked.sample_fps == pytest.approx(2.0, rel=0.05)
    assert len(picked.numbers) == 24
    moments = np.linspace(0, length, 24)
    expected = [max(i for i, s in enumerate(seconds) if s <= m + 1e-6) for m in moments]
    assert picked.numbers == expected
    assert picked.numbers.count(0) == 20  # ten of twelve seconds


def test_the_last_frames_time_on_screen_counts() -> None:
    line = lined([0.0, 0.1, 0.2, 0.3, 1.0, 2.0], 10.0, tail=8.0)
    assert line.end == 10.0
    picked = chosen(line)
    assert picked.numbers == [0, 5, 5, 5, 5, 5]  # moments 0, 2, 4, 6, 8, 10
    assert picked.sample_fps == pytest.approx(0.6)


def test_a_window_of_an_uneven_clip_holds_what_is_on_screen_in_it() -> None:
    line = lined([0.0, 10.0, 11.0, 30.0], None, tail=10.0)
    assert set(chosen(line, (12.0, 18.0)).numbers) == {2}
    assert set(chosen(line, (10.0, 18.0)).numbers) == {1, 2}
    assert set(chosen(line, (5.0, 10.5)).numbers) == {0, 1}
    assert set(chosen(line, (39.0, 99.0)).numbers) == {3}
    with pytest.raises(MediaError, match="it lasts 40 s"):
        chosen(line, (41.0, 99.0))


def test_a_window_between_two_even_frames_shows_the_one_before() -> None:
    line = lined([0.0, 5.0, 10.0, 15.0], 0.2)
    assert line.even
    assert chosen(line, (6.0, 9.0)).numbers == [1, 1]
    assert chosen(line, (5.0, 10.0)).numbers == [1, 2]


# Time stamps that are wrong


def test_a_few_stray_time_stamps_are_put_between_their_neighbours() -> None:
    seconds = (np.arange(50) / 10).tolist()
    for place, value in ((10, 9e5), (20, -3.0), (49, 0.0), (0, 4.0), (30, None)):
        strayed = [*seconds]
        strayed[place] = value
        line = lined(strayed, 10.0)
        assert line.even, (place, value)
        np.testing.assert_allclose(line.seconds, seconds, atol=1e-9)


def test_time_stamps_in_disorder_are_said_and_not_used() -> None:
    rng = np.random.default_rng(0)
    line = lined(rng.permutation(100).tolist(), 25.0)
    assert line.even and line.rate == 25.0
    assert "out of order" in line.warnings[0] and "25 a second" in line.warnings[0]


@pytest.mark.parametrize("offset", [-5.0, 0.0, 3600.0, 95443.0])
def test_recordings_put_together_are_joined_where_the_format_allows_jumps(offset: float) -> None:
    part = np.arange(50) / 10
    line = lined([*part, *(part + offset)], 10.0, jumps=True)
    assert line.even and line.rate == 10.0
    np.testing.assert_allclose(line.seconds, np.arange(100) / 10, atol=1e-6)
    assert "jump at 5 s" in line.warnings[0]
    if offset > 0:  # elsewhere a long wait is a long wait
        assert lined([*part, *(part + offset)], 10.0).end > offset


# Files


def test_a_webm_whose_header_says_1000_frames_a_second(
    write_clip: Clip, numbered: Numbered, number_of: NumberOf
) -> None:
    frames = [frame for frame in numbered(30) for _ in range(10)]
    path = write_clip(
        "browser.webm", frames, codec="libvpx", rate=1000, pts=[33 * i for i in range(300)],
        time_base=MS, format="webm", options={"live": "1"},
    )  # fmt: skip
    taken = load_video(Video(path), Access())
    assert len(taken.images) == 18 and taken.sample_fps == pytest.approx(18 / 9.9)
    for place, image in enumerate(taken.images):
        assert abs(number_of(image) - round(place * 299 / 17) // 10) <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_variable_rate_is_sampled_by_time(
    suffix: str, write_clip: Clip, numbered: Numbered, number_of: NumberOf
) -> None:
    # Ten frames in one second, then one frame each second for nine.
    pts = [100 * i for i in range(10)] + [1000 * i for i in range(1, 10)]
    path = write_clip(f"vfr.{suffix}", numbered(19), pts=pts, time_base=MS)
    taken = load_video(Video(path), Access())
    length = len(taken.images) / taken.sample_fps
    assert 9 < length <= 10.01  # Matroska does not say how long the last frame stays
    for moment, image in zip(np.linspace(0, length, len(taken.images)), taken.images, strict=True):
        on_screen = max(n for n in range(19) if pts[n] / 1000 <= moment + 0.001)
        assert number_of(image) == on_screen, moment
    assert taken.sample_fps == pytest.approx(1.9, abs=0.15)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_times_count_from_the_streams_start(
    suffix: str, write_clip: Clip, numbered: Numbered, number_of: NumberOf
) -> None:
    hour = 90_000 * 3600
    path = write_clip(
        f"late.{suffix}", numbered(40), pts=[hour + 9000 * i for i in range(40)],
        time_base=Fraction(1, 90_000), options={"avoid_negative_ts": "disabled"},
    )  # fmt: skip
    whole = load_video(Video(path), Access())
    assert len(whole.images) == 8 and whole.sample_fps == pytest.approx(2.0)
    part = load_video(Video(path, video_start=1.0, video_end=2.0), Access())
    shown = [number_of(image) for image in part.images]
    assert shown == [10, 13, 17, 20] and not part.warnings


def test_a_jump_in_a_transport_stream_is_joined(
    write_clip: Clip, numbered: Numbered, number_of: NumberOf, tmp_path: Path
) -> None:
    halves = [
        write_clip(f"{i}.ts", numbered(40)[20 * i : 20 * i + 20], encoder={"bf": "0"})
        for i in range(2)
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(half.read_bytes() for half in halves))
    taken = load_video(Video(both), Access())
    assert [number_of(image) for image in taken.images] == [0, 6, 11, 17, 22, 28, 33, 39]
    assert any("jump" in warning for warning in taken.warnings)


def test_the_length_limit_is_measured_by_time_stamps(write_clip: Clip, numbered: Numbered) -> None:
    pts = [1000 * i for i in range(12)]  # 11 s, which the header calls 0.12 s
    path = write_clip("slow.mp4", numbered(12), rate=100, pts=pts, time_base=MS)
    assert load_video(Video(path), Access(limits=Limits(video_seconds=12))).images
    with pytest.raises(LimitExceeded, match=r"limits\.video_seconds"):
        load_video(Video(path), Access(limits=Limits(video_seconds=5)))
    part = Video(path, video_end=4.0)
    assert load_video(part, Access(limits=Limits(video_seconds=5))).images


def test_a_raw_stream_without_times_still_gives_frames(
    write_clip: Clip, numbered: Numbered
) -> None:
    path = write_clip("raw.h264", numbered(30), format="h264", encoder={"bf": "0"})
    assert len(load_video(Video(path), Access()).images) == 4


def test_h264_in_avi_with_decoding_times_only_is_in_order(
    write_clip: Clip, numbered: Numbered, number_of: NumberOf
) -> None:
    for total, expected in ((40, [0, 6, 11, 17, 22, 28, 33, 39]), (8, [0, 2, 5, 7])):
        path = write_clip("b.avi", numbered(total), encoder={"bf": "3"})
        taken = load_video(Video(path), Access())
        assert [number_of(image) for image in taken.images] == expected
        assert not taken.warnings
