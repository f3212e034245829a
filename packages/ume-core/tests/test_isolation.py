"""Media decoded in other processes: same pixels, and a decoder's end is one item's end."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image as PILImage

from ume_core import Image, LimitExceeded, Limits, MediaError, Policy, Video
from ume_core.fetch import Access
from ume_core.media import isolation, load_video, open_picture
from ume_core.testing.decoders import crash, decoders, suspended_decoders

Clip = Callable[..., Path]
APART = Access(Policy(isolate=True))

if sys.platform != "linux":
    pytest.skip("the tests stop processes and look into /proc", allow_module_level=True)


def encoded(picture: PILImage.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def clip(scene: PILImage.Image, write_clip: Clip) -> bytes:
    frames = [scene.rotate(10 * n) for n in range(12)]
    return write_clip("clip.mp4", frames).read_bytes()


@pytest.fixture
def stopped(clip: bytes) -> Iterator[list[psutil.Process]]:
    """The processes that there are, which do nothing until they are told to go on."""
    load_video(Video(clip), APART)
    with suspended_decoders() as found:
        yield found


def test_clips_and_rare_pictures_have_the_same_pixels_and_warnings(
    clip: bytes, scene: PILImage.Image
) -> None:
    for damaged in (False, True):
        data = clip[:3000] + bytes(300) + clip[3300:] if damaged else clip
        video = Video(data, nframes=4)
        here, there = (load_video(video, access) for access in (Access(), APART))
        assert here.warnings == there.warnings and here.sample_fps == there.sample_fps
        for one, other in zip(here.images, there.images, strict=True):
            np.testing.assert_array_equal(one, other)
    for kind, options in (("TIFF", {"compression": "tiff_lzw"}), ("AVIF", {})):
        data = encoded(scene, kind, **options)
        assert isolation.is_rare(data)
        here, there = (open_picture(Image(data), access) for access in (Access(), APART))
        np.testing.assert_array_equal(here.image, there.image)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM"):
        assert not isolation.is_rare(encoded(scene, kind))


def test_errors_read_as_they_do_here(scene: PILImage.Image, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    (tmp_path / "bad.tif").write_bytes(encoded(scene, "TIFF", compression="tiff_lzw")[:300])
    small = Limits(image_pixels=100)
    for limits in (Limits(), small):
        for source in (tmp_path / "bad.mp4", tmp_path / "bad.tif"):
            said: list[str] = []
            for isolate in (False, True):
                access = Access(Policy(isolate=isolate), limits)
                with pytest.raises((MediaError, LimitExceeded)) as caught:
                    if source.suffix == ".mp4":
                        load_video(Video(source), access)
                    else:
                        open_picture(Image(source), access)
                said.append(str(caught.value))
            assert said[0] == said[1]


def test_a_crash_is_the_items_own_error_and_the_next_clip_is_read(
    clip: bytes, stopped: list[psutil.Process]
) -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            load_video(Video(clip), APART)
        except MediaError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    crash(stopped)
    thread.join(30)
    assert "decoder crashed (SIGSEGV)" in str(errors[0]) and "Fix: " in str(errors[0])
    assert load_video(Video(clip), APART).images


def test_a_hang_ends_at_its_time(clip: bytes, stopped: list[psutil.Process]) -> None:
    access = Access(Policy(isolate=True), Limits(decode_seconds=0.3))
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match="decode_seconds"):
        load_video(Video(clip), access)
    assert time.monotonic() - began < 20
    assert not any(process.is_running() for process in stopped)


def test_a_process_has_bounds_and_none_of_its_parents_secrets(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    monkeypatch.setattr(isolation, "_mine", {})
    before = {process.pid for process in decoders()}
    load_video(Video(clip), APART)
    (process,) = [p for p in decoders() if p.pid not in before]
    assert "HF_TOKEN" not in process.environ()
    limits = Path(f"/proc/{process.pid}/limits").read_text("utf-8")
    for name, most in (("core file size", 0), ("file size", 0), ("open files", 64)):
        line = next(x for x in limits.splitlines() if x.startswith(f"Max {name}"))
        assert line.split()[-3 if "unlimited" not in line else -2] == str(most), line
    assert process.rlimit(psutil.RLIMIT_AS)[0] < 1 << 36


def test_a_forked_process_has_decoders_of_its_own(clip: bytes) -> None:
    load_video(Video(clip), APART)
    child = os.fork()
    if not child:
        os._exit(0 if load_video(Video(clip), APART).images else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert load_video(Video(clip), APART).images


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"sizes": [[10**5, 10**5]], "fps": 1, "warnings": []}, LimitExceeded, "image_pixels"),
        ({"sizes": [[1, 1]] * 2000, "fps": 1, "warnings": []}, LimitExceeded, "video_frames"),
        ({"sizes": [[-1, 4]], "fps": 1, "warnings": []}, MediaError, "crashed"),
        ({"sizes": [[4, 4]], "fps": 1, "warnings": []}, MediaError, "crashed"),  # no pixels come
        ({"error": ["SystemExit", "x", "y"]}, MediaError, "x"),
        ([], MediaError, "crashed"),
    ],
)
def test_a_decoder_that_was_taken_over_is_not_believed(
    clip: bytes, monkeypatch: pytest.MonkeyPatch, said: object, error: type[Exception], words: str
) -> None:
    lie = (
        "import json, os, struct, sys\n"
        "def say(v):\n"
        "    t = json.dumps(v).encode()\n"
        "    sys.stdout.buffer.write(struct.pack('>I', len(t)) + t); sys.stdout.flush()\n"
        f"say({{}}); sys.stdin.buffer.read(4); say({said!r}); os.close(1)\n"
        "sys.stdin.buffer.read()"  # all of it, or its parent may find the pipe broken
    )
    monkeypatch.setattr(isolation, "_mine", {})
    monkeypatch.setattr(isolation, "_MAIN", lie)
    with pytest.raises(error, match=words):
        load_video(Video(clip), APART)
