"""Files, `file://`, `data:` and HTTP URLs under the policy; `test_download.py` has more of HTTP."""

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
from ume_core.fetch import Access, media_warning, read_source
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


# `file://`, as the published recipe reads it and as RFC 8089 writes it.

NAMES = ["holiday#1.png", "what?.png", "50%41.png", "100%.png", "a b.png", "кот.png", "a+b.png"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_url_is_a_path_as_it_stands_as_in_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = pytest.importorskip("qwen_vl_utils.vision_process")
    path = tmp_path / name
    PILImage.new("RGB", (30, 20), "red").save(path, "PNG")
    url = f"file://{path}"
    assert recipe.fetch_image({"image": url}).size  # the oracle finds it
    assert open_image(Image(url), Access()).size == (30, 20)
    assert open_image(Image(f"  FILE{url[4:]}"), Access()).size == (30, 20)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_url_may_be_percent_encoded_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / "my folder" / name
    path.parent.mkdir()
    path.write_bytes(PNG)
    for url in (path.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        assert read_source(url, Access()) == PNG
        assert read_source(url, Access(Policy(roots=(path.parent,)))) == PNG


def test_the_path_as_it_stands_comes_before_the_decoded_one(tmp_path: Path) -> None:
    (tmp_path / "50%41.png").write_bytes(b"as it stands")
    (tmp_path / "50A.png").write_bytes(b"decoded")
    assert read_source(f"file://{tmp_path}/50%41.png", Access()) == b"as it stands"


def test_a_decoded_file_url_leaves_no_root(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    access = Access(Policy(roots=(inside,)))
    for url in (f"file://{inside}/%2e%2e/a.png", f"file://{inside}/..%2fa.png"):
        with pytest.raises(MediaError, match="no such file"):
            read_source(url, access)  # the one inside the root, which is not there
    with pytest.raises(PolicyViolation, match="outside"):
        read_source(f"file://{tmp_path}/%61.png", access)


# `data:`

TEXT = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(bytes(range(256))).decode()


@pytest.mark.parametrize(
    ("url", "data"),
    [
        (f"data:image/png;base64,{TEXT}", PNG),
        (f"data:image/png;BASE64,{TEXT}", PNG),
        (f"DATA:image/png;Base64,{TEXT}", PNG),
        (f"data:image/png; base64 ,{TEXT}", PNG),
        (f"data:image/png;charset=utf-8;base64,{TEXT}", PNG),
        (f"data:;base64,{TEXT}", PNG),
        (f"  data:image/png;base64,\n {TEXT[:40]}\r\n{TEXT[40:]} \n", PNG),
        (f"data:image/png;base64,{TEXT.replace('+', '%2B').replace('=', '%3D')}", PNG),
        (f"data:image/png;base64,{TEXT.rstrip('=')}", PNG),
        (f"data:,{'x' * 5}%20y", b"xxxxx y"),
        (f"data:x/y;base64,{URL_SAFE}", bytes(range(256))),
        (f"data:x/y;base64,{URL_SAFE.rstrip('=')}", bytes(range(256))),
        ("data:x/y;base64,QQ", b"A"),
        ("data:x/y;base64,QUI=", b"AB"),
    ],
)  # fmt: skip
def test_data_urls_are_taken_as_people_write_them(url: str, data: bytes) -> None:
    assert "-" in URL_SAFE and "_" in URL_SAFE
    assert read_source(url, Access(Policy.closed())) == data


@pytest.mark.parametrize("body", ["QQ$", "Q", "QUJDR", "Q=UI", "кот"])
def test_what_is_no_base64_is_refused_with_the_call_that_makes_it(body: str) -> None:
    with pytest.raises(MediaError, match=r"base64\.b64encode\(data\)"):
        read_source(f"data:image/png;base64,{body}", Access())


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("="), TEXT * 50, f"/9j/{TEXT}", TEXT + "\n"])
@pytest.mark.parametrize("policy", [Policy(), Policy.closed(), Policy(roots=(Path("/nowhere"),))])
def test_bare_base64_is_told_from_a_path(text: str, policy: Policy) -> None:
    with pytest.raises((MediaError, PolicyViolation), match="'data:image/png;base64,'") as caught:
        read_source(text, Access(policy))
    assert len(str(caught.value)) < 500


def test_the_fix_for_bare_base64_works() -> None:
    assert open_image(Image("data:image/png;base64," + TEXT), Access()).size == (30, 20)


def test_a_missing_path_with_a_suffix_is_not_called_base64() -> None:
    with pytest.raises(MediaError, match=r"check the path$"):
        read_source("a/very/long/path/that/is/not/there/at/all/and/never/was.png", Access())


@pytest.mark.parametrize("url", ["http:/h.example/a", "https:h.example", "file:/tmp/a.png"])
def test_a_url_with_too_few_slashes_says_so(url: str) -> None:
    with pytest.raises(MediaError, match="two slashes"):
        read_source(url, Access())


def test_a_text_that_is_a_medias_name_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "dog.PNG").write_bytes(b"x")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    for text, kind in (
        (str(tmp_path / "dog.PNG"), "Image"),
        (f" {tmp_path / 'clip.mp4'}\n", "Video"),
        ("https://host/a.jpg?size=3", "Image"),
        ("HTTP://host/a.webm#t=2", "Video"),
        ("file:///nowhere/a.png", "Image"),
        ("data:image/png;base64," + "A" * 9000, "Image"),
        ("data:video/mp4;base64,AA", "Video"),
    ):
        warning = media_warning(text, Policy())
        assert warning is not None and f"pass {kind}(...)" in warning, text[:40]
        assert len(warning) < 500
    for text in (
        "a dog", str(tmp_path / "gone.png"), f"see {tmp_path / 'dog.PNG'}", "dog.png or cat.png",
        "https://host/page", "look at https://host/a.jpg", str(tmp_path), "x" * 9000 + ".png",
        f"{tmp_path / 'dog.PNG'}\nand more", "\0.png", "~nobody-here/a.png",
    ):  # fmt: skip
        assert media_warning(text, Policy()) is None, text[:40]


def test_a_warning_does_not_tell_of_files_that_the_policy_hides(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in" / "a.png", tmp_path / "b.png"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(b"x")
    assert media_warning(str(inside), Policy.closed()) is None
    rooted = Policy(roots=(inside.parent,))
    assert media_warning(str(inside), rooted) and media_warning(str(outside), rooted) is None
    # A URL says by itself what it is.
    assert media_warning("https://host/a.png", Policy.closed())
