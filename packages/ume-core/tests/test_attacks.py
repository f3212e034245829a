"""Hostile bytes and values: nothing beside the input is opened, and every failure is ours."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import Item, LimitExceeded, Limits, MediaError, Policy, Sampling, UmeError
from ume_core.fetch import Access, read_source
from ume_core.items import Image, Text, Video, as_item
from ume_core.media import load_video, open_image

CLOSED = Access(Policy.closed())
FRAME = PILImage.new("RGB", (64, 48), "red")


def clip(path: Path, frames: int = 6, **options: Any) -> Path:
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264" if path.suffix == ".mp4" else "mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(FRAME)))
        container.mux(stream.encode())
    return path


def test_a_playlist_in_the_bytes_cannot_open_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = clip(tmp_path / "secret.mp4")
    monkeypatch.chdir(tmp_path)
    assert load_video(Video(secret.read_bytes()), CLOSED).images  # a real video still opens
    for playlist in (
        b"ffconcat version 1.0\nfile secret.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    ):
        with pytest.raises(MediaError, match="cannot be decoded"):
            load_video(Video(playlist), CLOSED)


def test_a_session_description_in_the_bytes_opens_no_socket() -> None:
    sdp = (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 55555 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    began = time.monotonic()
    with pytest.raises(MediaError):
        load_video(Video(sdp), CLOSED)
    assert time.monotonic() - began < 8


def test_postscript_never_reaches_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    stub = tmp_path / "gs"
    stub.write_text(f"#!/bin/sh\ntouch {marker}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF"
    (tmp_path / "x.eps").write_bytes(eps)
    for source in (eps, tmp_path / "x.eps", PILImage.open(tmp_path / "x.eps")):
        with pytest.raises(MediaError):
            open_image(Image(source), Access())
    assert not marker.exists()


def test_metadata_that_is_no_unicode_does_not_matter(tmp_path: Path) -> None:
    path = clip(tmp_path / "x.mkv")
    raw = clip(tmp_path / "y.mkv").read_bytes()
    titled = raw.replace(b"Lavf", b"\xe9\xe8\xff\xfe")
    assert titled != raw
    assert load_video(Video(titled), Access()).images and load_video(Video(path), Access()).images


@pytest.mark.parametrize("size", [1, 2])
def test_a_very_short_video_still_gives_frames(tmp_path: Path, size: int) -> None:
    path = clip(tmp_path / "x.mp4", frames=size)
    assert len(load_video(Video(path), Access()).images) == 2


def test_source_pixels_of_all_frames_are_bounded(tmp_path: Path) -> None:
    tight = Access(limits=Limits(video_pixels=64 * 48 * 3))
    for video in (Video(clip(tmp_path / "x.mp4")), Video([FRAME] * 4)):
        with pytest.raises(LimitExceeded, match=r"limits\.video_pixels"):
            load_video(video, tight)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(MediaError, match=r"regular file|cannot read"):
            read_source(path, Access())
    with pytest.raises(LimitExceeded):  # says it has no bytes, and has more than ten
        read_source(Path("/proc/self/maps"), Access(limits=Limits(file_bytes=10)))


def _serve(answer: Callable[[socket.socket], None]) -> str:
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            try:
                answer(connection)
            except OSError:
                return

    threading.Thread(target=work, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/x"


def _drip(head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(200):
            connection.sendall(drop)
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    ],
)
def test_a_dripping_server_is_left_at_the_time_limit(head: bytes, drop: bytes) -> None:
    access = Access(Policy(private_networks=True), Limits(url_seconds=0.5))
    began = time.monotonic()
    with pytest.raises(MediaError, match="url_seconds"):
        read_source(_serve(_drip(head, drop)), access)
    assert time.monotonic() - began < 8


def test_a_short_download_is_noticed() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc")

    with pytest.raises(MediaError, match=r"after 3 of 5,000 bytes|cannot fetch"):
        read_source(_serve(answer), Access(Policy(private_networks=True)))


@pytest.mark.parametrize(
    "source",
    ["a\0b.png", "a\ud800.png", "ab:" + "a" * 5000, "data:,\ud800", "http://[x/y", "file://[x/y",
     "file:///tmp/a%00b", "gopher://x/y", "data:image/png;base64,%%%", "", "a" * 5000],
    ids=ascii,
)  # fmt: skip
def test_malformed_sources_are_media_errors(source: str) -> None:
    with pytest.raises(UmeError):
        open_image(Image(source), Access())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Text(5),  # type: ignore[arg-type]
        lambda: Item(("x",)),  # type: ignore[arg-type]
        lambda: Item((Text("a"),), 5),  # type: ignore[arg-type]
        lambda: as_item({1: 2, "b": 2}),  # type: ignore[dict-item]
        lambda: as_item({"image": None}),
        lambda: as_item({"image_url": {}}),
        lambda: as_item({"video": 5}),
        lambda: as_item({"video": FRAME}),
        lambda: Image(bytearray(b"x")),  # type: ignore[arg-type]
        lambda: Image(FRAME, min_pixels=0),
        lambda: Image(FRAME, max_pixels="9"),  # type: ignore[arg-type]
        lambda: Image(FRAME, resized_height=28),
        lambda: Image(FRAME, min_pixels=float("nan")),  # type: ignore[arg-type]
        lambda: Video([FRAME], fps=0),
        lambda: Video([FRAME], sample_fps=float("inf")),
        lambda: Video([FRAME], nframes=1.5),  # type: ignore[arg-type]
        lambda: Sampling(n=10**6),
        lambda: Sampling(n="3"),  # type: ignore[arg-type]
        lambda: Sampling(seed=2**70),
        lambda: Sampling(temperature="x"),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_and_values_are_refused_with_a_fix(make: Callable[[], Any]) -> None:
    with pytest.raises(UmeError, match="Fix: "):
        make()


def test_policy_roots_may_be_one_path_or_strings(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    for roots in (str(tmp_path), tmp_path, [str(tmp_path)]):
        policy = Policy(roots=roots)  # type: ignore[arg-type]
        assert read_source(tmp_path / "a.png", Access(policy)) == b"x"


def test_a_refusal_does_not_tell_whether_the_file_exists(tmp_path: Path) -> None:
    access = Access(Policy(roots=(tmp_path,)))
    for name in ("/etc/passwd", "/etc/no-such-file"):
        with pytest.raises(UmeError, match="outside the allowed folders"):
            read_source(Path(name), access)


def test_an_array_that_lies_about_its_size_is_measured_first() -> None:
    huge = np.broadcast_to(np.uint8(3), (768, 2000, 2000, 3))
    with pytest.raises(LimitExceeded, match=r"limits\.video_pixels"):
        load_video(Video(huge), Access(limits=Limits(video_pixels=10_000_000)))


@pytest.mark.parametrize("container", ["mov", "avi", "matroska"])
def test_jpeg2000_inside_a_video_is_refused_before_it_is_decoded(container: str) -> None:
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        stream = out.add_stream("jpeg2000", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for _ in range(3):
            picture = av.VideoFrame.from_image(PILImage.new("RGB", (64, 48), "red"))
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    with pytest.raises(MediaError, match=r"codec jpeg2000.*H\.264"):
        load_video(Video(data.getvalue()), Access())
