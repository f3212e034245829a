"""Pictures and clips the tests write themselves, and a web and a name server for downloads."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

Clip = Callable[..., Path]


@pytest.fixture
def scene() -> PILImage.Image:
    """A picture without any symmetry, 96 x 64."""
    return draw_scene(96, 64)


def draw_scene(width: int, height: int) -> PILImage.Image:
    image = PILImage.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.08, height * 0.05, width * 0.5, height * 0.47), fill="red")
    pen.rectangle((width * 0.6, height * 0.1, width * 0.9, height * 0.3), fill="blue")
    pen.polygon(
        [(width * 0.1, height * 0.9), (width * 0.5, height * 0.9), (width * 0.3, height * 0.55)],
        fill="green",
    )
    return image


@pytest.fixture
def write_clip(tmp_path: Path) -> Clip:
    """Encode frames: `write_clip("a.mp4", frames, codec=…, pts=…, …)` gives the path."""

    def write(
        name: str,
        frames: Sequence[PILImage.Image],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 10,
        pts: Sequence[int] | None = None,
        time_base: Fraction | None = None,
        pixel_shape: Fraction | None = None,
        encoder: dict[str, str] | None = None,
        **container: Any,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", **container) as out:
            stream = out.add_stream(codec, rate=rate, options=encoder or {})
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = pix_fmt
            if time_base is not None:
                stream.codec_context.time_base = time_base
            if pixel_shape is not None:
                stream.codec_context.sample_aspect_ratio = pixel_shape
            for number, image in enumerate(frames):
                layout = {"RGB": "rgb24", "RGBA": "rgba"}[image.mode]
                frame = av.VideoFrame.from_ndarray(np.asarray(image), layout)
                if pts is not None:
                    frame.pts, frame.time_base = pts[number], time_base
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return path

    return write


def grey(level: int, size: tuple[int, int] = (64, 64)) -> PILImage.Image:
    """A frame whose brightness says which one it is."""
    return PILImage.new("RGB", size, (level, level, level))


@pytest.fixture
def numbered() -> Callable[[int], list[PILImage.Image]]:
    """`count` grey frames; `level(image)` over 4 is a frame's number."""
    return lambda count: [grey(20 + 4 * number) for number in range(count)]


@pytest.fixture
def number_of() -> Callable[[PILImage.Image], int]:
    """Which of the `numbered` frames a decoded one is."""
    return lambda image: round((float(np.asarray(image).mean()) - 20) / 4)


@pytest.fixture
def difference() -> Callable[[PILImage.Image, PILImage.Image], float]:
    """Mean difference of two pictures' values, 0 to 255; 255 where their sizes differ."""

    def measure(a: PILImage.Image, b: PILImage.Image) -> float:
        if a.size != b.size:
            return 255.0
        return float(np.abs(np.asarray(a).astype(int) - np.asarray(b.convert("RGB"))).mean())

    return measure


BODY = b"picture" * 500
Answer: TypeAlias = "tuple[int, dict[str, str], bytes]"


class Server(http.server.ThreadingHTTPServer):
    """Answers every path with what was put there, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""
        del request, client_address

    @property
    def headers(self) -> dict[str, str]:
        """Of the last request."""
        return self.seen[-1][1]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast("Server", self.server)
        server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        status, headers, body = server.answers.get(self.path, (200, {}, BODY))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, int]]]:
    """A name server: `names[host] = [(address, port)]`, the port instead of the URL's."""
    table: dict[str, list[tuple[str, int]]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host in table:
            kind = socket.SOCK_STREAM
            return [(socket.AF_INET, kind, 6, "", where) for where in table[host]]
        if host.endswith(".example"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table
