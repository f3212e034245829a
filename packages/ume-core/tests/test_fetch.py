"""Files and URLs under the policy, over real HTTP."""

from __future__ import annotations

import base64
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as PILImage

from ume_core import LimitExceeded, Limits, MediaError, Policy, PolicyViolation
from ume_core.fetch import Access, read_source
from ume_core.items import Image
from ume_core.media import open_image

BUFFER = io.BytesIO()
PILImage.new("RGB", (30, 20), "red").save(BUFFER, "PNG")
PNG = BUFFER.getvalue()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
        elif self.path == "/escape":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
        elif self.path == "/missing":
            self.send_response(404)
        else:
            self.send_response(200)
        self.end_headers()
        if self.path == "/a.png":
            self.wfile.write(PNG)
        elif self.path == "/endless":
            for _ in range(100):
                self.wfile.write(b"x" * 1000)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


OPEN = Access(Policy(private_networks=True))


def test_an_image_is_read_from_every_kind_of_source(server: str, tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(PNG)
    data = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for source in (path, str(path), path.as_uri(), data, PNG, f"{server}/a.png"):
        assert open_image(Image(source), OPEN).size == (30, 20)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
def test_private_addresses_are_refused_by_default(host: str) -> None:
    with pytest.raises(PolicyViolation, match="private"):
        read_source(f"http://{host}:9/a.png", Access())


def test_a_closed_policy_opens_neither_files_nor_urls(server: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for source in (path, path.as_uri(), f"{server}/a.png"):
        with pytest.raises(PolicyViolation, match="send the file's bytes"):
            read_source(source, Access(Policy.closed()))


def test_roots_hold_against_links_and_dots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.png").write_bytes(PNG)
    (inside / "link.png").symlink_to(outside / "a.png")
    access = Access(Policy(roots=(inside,)))
    for path in (inside / "link.png", inside / ".." / "out" / "a.png"):
        with pytest.raises(PolicyViolation, match="outside"):
            read_source(path, access)


@pytest.mark.parametrize("path", ["/loop", "/missing", "/empty"])
def test_http_failures_name_the_url(server: str, path: str) -> None:
    with pytest.raises(MediaError, match=path):
        read_source(server + path, OPEN)


def test_a_redirect_cannot_leave_http(server: str) -> None:
    with pytest.raises(PolicyViolation, match="redirect"):
        read_source(server + "/escape", OPEN)


def test_a_download_stops_at_the_byte_limit(server: str) -> None:
    access = Access(Policy(private_networks=True), Limits(file_bytes=5000))
    with pytest.raises(LimitExceeded, match="file_bytes"):
        read_source(server + "/endless", access)


def test_an_unreachable_url_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="cannot fetch"):
        read_source("http://127.0.0.1:9/x.png", OPEN)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    buffer = io.BytesIO()
    PILImage.new("1", (40_000, 40_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 1_000_000
    with pytest.raises(LimitExceeded, match=r"limits\.image_pixels"):
        open_image(Image(buffer.getvalue()), Access())


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = PILImage.effect_noise((200, 200), 90)
    noise.save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(MediaError, match=r"cut\.png is truncated"):
        open_image(Image(path), Access())


def test_alpha_lies_over_white() -> None:
    clear = PILImage.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(Image(clear), Access()).getpixel((0, 0)) == (255, 255, 255)
