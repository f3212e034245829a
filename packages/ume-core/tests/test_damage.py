"""A bad packet costs frames, not the clip, and the record says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import MediaError, Text
from ume_core.fetch import Access
from ume_core.items import Item, Video
from ume_core.media import load_video
from ume_core.testing import FakeEmbedder
from ume_qwen.patches import PatchConfig, Patchifier

Clip = Callable[..., Path]
Difference = Callable[[PILImage.Image, PILImage.Image], float]

# file, how it is encoded: containers and codecs whose decoders notice nonsense
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {}, "h264.mov": {}, "h264.mkv": {}, "h264.ts": {}, "h264.avi": {}, "h264.flv": {},
    "hevc.mp4": {"codec": "libx265", "encoder": {"x265-params": "log-level=none"}},
    "mpeg4.mp4": {"codec": "mpeg4"}, "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mkv": {"codec": "mpeg4"}, "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25}, "flv1.flv": {"codec": "flv"},
    "vp8.webm": {"codec": "libvpx"}, "vp9.webm": {"codec": "libvpx-vp9"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}  # fmt: skip
BAD = 31  # the packet that is spoilt, of 40


def moving(scene: PILImage.Image) -> list[PILImage.Image]:
    """Forty frames of which no two are alike, with noise, so that packets are of some size."""
    rng = np.random.default_rng(0)
    frames: list[PILImage.Image] = []
    for number in range(40):
        frame = scene.copy()
        noise = PILImage.fromarray(rng.integers(0, 256, (6, 96, 3), dtype=np.uint8))
        frame.paste(noise, (0, 32))
        frame.paste((0, 0, 200), (2 * number, 40, 2 * number + 10, 60))
        frames.append(frame)
    return frames


def written(name: str, scene: PILImage.Image, write_clip: Clip) -> Path:
    codec = KINDS[name].get("codec", "libx264")
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    return write_clip(name, moving(scene), **KINDS[name])


def spoil(path: Path, number: int) -> Path:
    """Overwrite one packet's content in place, leaving the container whole."""
    with av.open(str(path)) as clip:
        packets = [bytes(p) for p in clip.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    victim = packets[number]
    noise = np.random.default_rng(3)
    place = spoilt_bytes = 0
    # In pieces: a transport stream spreads a packet over its own, of 184 bytes. The start code
    # stays there: without it the packet is taken for a part of the one before.
    first = 16 if path.suffix == ".ts" else 0
    for start in range(first, len(victim) - 16, 16):
        found = data.find(victim[start : start + 16], place)
        if found >= 0:
            place = found + 16
            data[found:place] = noise.integers(0, 256, 16, dtype=np.uint8).tobytes()
            spoilt_bytes += 16
    assert spoilt_bytes > len(victim) / 2
    spoilt = path.with_name(f"spoilt-{path.name}")
    spoilt.write_bytes(data)
    return spoilt


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_packet_costs_frames_not_the_clip(
    name: str, scene: PILImage.Image, write_clip: Clip, difference: Difference
) -> None:
    sound = written(name, scene, write_clip)
    good = load_video(Video(sound, nframes=8), Access())
    bad = load_video(Video(spoil(sound, BAD), nframes=8), Access())
    assert not good.warnings
    assert len(bad.images) == 8
    same = [difference(a, b) < 16 for a, b in zip(good.images, bad.images, strict=True)]
    assert sum(same) >= 5 and all(same[:4]), same
    (warning,) = bad.warnings
    assert f"spoilt-{name}" in warning and "what could be decoded was used" in warning


def test_the_same_damaged_clip_gives_the_same_frames(
    scene: PILImage.Image, write_clip: Clip
) -> None:
    path = spoil(written("h264.mp4", scene, write_clip), BAD)
    runs = [load_video(Video(path, nframes=20), Access()) for _ in range(3)]
    first = [image.tobytes() for image in runs[0].images]
    assert all([image.tobytes() for image in run.images] == first for run in runs)
    assert len({run.warnings for run in runs}) == 1


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp8.webm", "mpeg4.avi", "h264.flv"])
def test_a_clip_that_was_cut_says_how_much_is_there(
    name: str, scene: PILImage.Image, write_clip: Clip, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**KINDS[name]}
    if name.endswith("mp4"):
        options["options"] = {"movflags": "faststart"}
    data = write_clip(name, moving(scene), **options).read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    frames = load_video(Video(cut), Access())
    assert frames.images
    assert any("Only" in warning and "should last" in warning for warning in frames.warnings)


def test_a_part_that_a_container_lost_is_said(
    scene: PILImage.Image, write_clip: Clip, tmp_path: Path
) -> None:
    path = write_clip("h264.mkv", moving(scene) * 4, rate=25, encoder={"g": "10"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "hole.mkv"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and not 60 <= packet.dts // 40 < 90:
                packet.stream = stream
                out.mux(packet)
    (warning,) = load_video(Video(tmp_path / "hole.mkv"), Access()).warnings
    assert "no new frame" in warning and "0.04 s" in warning


def test_sound_clips_are_not_called_damaged(scene: PILImage.Image, write_clip: Clip) -> None:
    for name in KINDS:
        assert load_video(Video(written(name, scene, write_clip)), Access()).warnings == (), name
    cut_in = written("h264.ts", scene, write_clip).read_bytes()[188 * 20 :]
    # A recording of a broadcast begins between two key frames; here after the only one.
    with pytest.raises(MediaError, match="cannot be decoded"):
        load_video(Video(cut_in), Access())


def test_a_recording_that_begins_midway_is_used_from_its_first_key_frame(
    scene: PILImage.Image, write_clip: Clip
) -> None:
    path = write_clip("live.ts", moving(scene), encoder={"g": "10"})
    data = path.read_bytes()
    with av.open(str(path)) as clip:
        places = [p.pos for p in clip.demux(video=0) if p.is_keyframe]
    frames = load_video(Video(data[:376] + data[places[0] + 188 * 6 :]), Access())
    assert len(frames.images) >= 4


def test_a_clip_of_which_nothing_can_be_decoded_says_why_and_what_to_do(
    scene: PILImage.Image, write_clip: Clip
) -> None:
    path = written("h264.mp4", scene, write_clip)
    data = bytearray(path.read_bytes())
    place = data.find(b"mdat")
    end = place + int.from_bytes(data[place - 4 : place], "big") - 4
    data[place + 4 : end] = bytes(end - place - 4)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="cannot be decoded as a video") as caught:
        load_video(Video(path), Access())
    assert "replace the file" in caught.value.fix


def test_frames_of_another_size_are_made_alike_and_said(
    scene: PILImage.Image, write_clip: Clip, tmp_path: Path
) -> None:
    small = write_clip("a.ts", [scene.resize((48, 32))] * 10)
    large = write_clip("b.ts", [scene] * 30)
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = load_video(Video(both), Access())
    assert {image.size for image in frames.images} == {(96, 64)}
    assert any("changes its size" in warning for warning in frames.warnings)


def test_a_frame_that_the_recorder_left_out_is_no_damage(
    scene: PILImage.Image, write_clip: Clip
) -> None:
    path = write_clip("gap.mov", moving(scene), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    sizes = data.find(b"stsz") + 16  # behind version, common size and count: one number a sample
    data[sizes + 39 * 4 : sizes + 40 * 4] = bytes(4)
    with av.open(str(path)) as clip:
        assert [p.size for p in clip.demux(video=0)][39] > 0
    path.write_bytes(data)
    with av.open(str(path)) as clip:
        assert [(p.size, p.dts is None) for p in clip.demux(video=0)][39] == (0, False)
    frames = load_video(Video(path), Access())
    assert len(frames.images) == 6 and frames.warnings == ()


def test_the_record_says_what_was_damaged(scene: PILImage.Image, write_clip: Clip) -> None:
    sound = written("h264.mp4", scene, write_clip)
    spoilt = spoil(sound, BAD)
    items = [Video(sound), Item((Text("which?"), Video(spoilt), Video(sound))), "a text"]
    records = FakeEmbedder().embed(items).records
    assert [len(record.warnings) for record in records] == [0, 1, 0]
    assert [record.status for record in records] == ["ok"] * 3
    visual = Patchifier(PatchConfig(), Access())(Video(spoilt))
    assert visual.warnings == records[1].warnings
