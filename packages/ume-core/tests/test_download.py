"""What downloads send and take, against a real server and against what `requests` sends."""

from __future__ import annotations

import base64
import gzip
import traceback
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from urllib3.response import HTTPResponse

from ume_core import LimitExceeded, Limits, MediaError, Policy, UmeError
from ume_core import download as client
from ume_core.fetch import Access, read_source

BODY = b"picture" * 500
OPEN = Access(Policy(private_networks=True))


def limited(**limits: Any) -> Access:
    return Access(Policy(private_networks=True), Limits(**limits))


def refused(url: str, access: Access = OPEN) -> str:
    with pytest.raises(UmeError, match="Fix: ") as caught:
        read_source(url, access)
    return str(caught.value)


# What is sent.


def test_the_client_names_itself_and_where_to_ask(server: Any) -> None:
    assert read_source(f"{server.url}/a.png", OPEN) == BODY
    name, contact, library = server.headers["user-agent"].split(" ")
    assert name.startswith("ume-core/0")
    assert contact.startswith("(https://") and contact.endswith(")")
    assert library.startswith("urllib3/")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://h.example/", "h.example"),
        ("http://h.example:80/", "h.example"),
        ("http://H.Example:8080/", "h.example:8080"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://BÜCHER.example/", "xn--bcher-kva.example"),
        ("http://bu\u0308cher。example/", "xn--bcher-kva.example"),
    ],
)
def test_the_host_is_sent_in_ascii_without_its_default_port(
    server: Any, names: dict[str, list[tuple[str, int]]], url: str, host: str
) -> None:
    names[host.partition(":")[0]] = [("127.0.0.1", server.server_port)]
    assert read_source(url, OPEN) == BODY
    assert server.headers["host"] == host


PATHS = [
    "/my photo.png", "/кот.png", "/a.png?q=кот", "/a%20b.png", "/100%.png", "/a%2Fb%zz", "/é%20b",
    '/a|b[1]{2}^`"<>.png?x=[1]|{}', "", "?x=1", "/a?b#c d", "/a/../b/./c", "/a\\b", "//a//b",
    "/u\u0308.png", "/a+b%2B?c=d+e", "/a;b=c,d", "/ümlaut%.png", "/?q=a b&r=%E4",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_paths_are_quoted_as_requests_quotes_them(server: Any, path: str) -> None:
    requests = pytest.importorskip("requests")
    assert read_source(server.url + path, OPEN) == BODY
    requests.get(server.url + path, timeout=5)
    ours, theirs = (target for target, _ in server.seen)
    assert ours == theirs


@pytest.mark.parametrize("url", [" {}/a.png", "{}/a.png ", "{}/a.png\r\n", "\t{}/a\n.png\x00"])
def test_blanks_around_a_url_and_line_ends_in_it_are_dropped_as_browsers_do(
    server: Any, url: str
) -> None:
    assert read_source(url.format(server.url), OPEN) == BODY
    assert server.seen[-1][0] == "/a.png"


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert client.parse("http://[::1]:8080/").host == "[::1]"


# Credentials.

SECRET = "s3cret/ä@"
QUOTED = "s3cret%2F%C3%A4%40"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [
        (f"me:{QUOTED}", basic("me", SECRET)),
        ("me:s3cret/ä@".replace("/", "%2F"), basic("me", SECRET)),
        ("me", basic("me", "")),
        ("me:a:b", basic("me", "a:b")),
    ],
)
def test_credentials_of_a_url_are_sent_as_basic(server: Any, userinfo: str, sent: str) -> None:
    read_source(server.url.replace("//", f"//{userinfo}@") + "/a", OPEN)
    assert server.headers["authorization"] == sent


def test_credentials_stay_with_their_host(
    server: Any, names: dict[str, list[tuple[str, int]]]
) -> None:
    port = server.server_port
    for name in ("one.example", "two.example"):
        names[name] = [("127.0.0.1", port)]
    server.answers |= {
        "/1": (302, {"Location": "/2"}, b""),
        "/2": (302, {"Location": "http://one.example/3"}, b""),
        "/3": (302, {"Location": "http://one.example:81/4"}, b""),  # another port: another server
        "/4": (302, {"Location": "http://two.example/5"}, b""),
        "/5": (302, {"Location": "http://one.example/6"}, b""),
    }
    read_source("http://me:pw@one.example/1", OPEN)
    sent = {path: headers.get("authorization") for path, headers in server.seen}
    assert sent == {**dict.fromkeys(("/1", "/2", "/3"), basic("me", "pw")),
                    **dict.fromkeys(("/4", "/5", "/6"))}  # fmt: skip


def test_credentials_of_a_redirect_are_its_own(server: Any) -> None:
    target = server.url.replace("//", "//you:pw2@")
    server.answers["/1"] = (302, {"Location": f"{target}/2"}, b"")
    read_source(server.url.replace("//", "//me:pw@") + "/1", OPEN)
    assert [h["authorization"] for _, h in server.seen] == [basic("me", "pw"), basic("you", "pw2")]


@pytest.mark.parametrize(
    "url",
    [
        "http://me:{}@missing.example/a", "http://me:{}@h.example:99999/a", "http://me:{}@/a",
        "http://me:{}@h.exa mple/a", "http://me:{}@[::1/a", "http://me:{}@h.example:x/a",
        "http://me:s3cret/x@h.example/a", "http://me:s3cret?x@h.example/a", "https://me:{}@{server}/",
        "http://me:s3cret#x@h.example/a", "http://me:12x/s3cret@h.example/a", "HTTP://me:{}@{server}/404",
        "http://me:{}@{server}/404", "http://me:{}@{server}/loop", "http://me:{}@{server}/away",
        "http://me:{}@{server}/big", "http://me:{}@{server}/empty", "http://me:{}@{server}/file",
        "http://{server}/with", "http://{server}/bad", " http://me:{}@{server}/404 ",
        "ftp://me:{}@h.example/a", "http:me:{}@h.example/a", "https:/me:{}@h.example/a",
    ],
)  # fmt: skip
def test_no_error_tells_a_password(
    server: Any, names: dict[str, list[tuple[str, int]]], url: str
) -> None:
    del names
    here = server.url.replace("http://", "")
    server.answers |= {
        "/404": (404, {}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/away": (302, {"Location": f"http://me:{QUOTED}@missing.example/"}, b""),
        "/big": (200, {"Content-Length": "10000000"}, b""),
        "/empty": (200, {"Content-Length": "0"}, b""),
        "/file": (302, {"Location": f"ftp://me:{QUOTED}@h.example/"}, b""),
        "/with": (302, {"Location": f"http://me:{QUOTED}@{here}/404"}, b""),
        "/bad": (302, {"Location": f"http://me:{QUOTED}@[::1/"}, b""),
    }
    asked = url.replace("{server}", here).replace("{}", QUOTED)
    with pytest.raises(UmeError, match="Fix: ") as caught:
        read_source(asked, limited(file_bytes=5000))
    told = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in told, told
    assert "…@" in told or "ftp" in told or "/with" in told or "/bad" in told  # and says which


# What comes back.


@pytest.mark.parametrize("status", [200, 203])
def test_a_whole_answer_is_taken(server: Any, status: int) -> None:
    server.answers["/a"] = (status, {}, BODY)
    assert read_source(f"{server.url}/a", OPEN) == BODY


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (206, "with a part"), (204, "204 No Content"), (300, "300 Multiple"),
        (401, "user:password@"),
        (403, "403 Forbidden.*download it first"), (404, "404 Not Found.*check the URL"),
        (410, "410 Gone"), (429, "try again later"), (503, "503 Service"), (799, "answered 799"),
    ],
)  # fmt: skip
def test_other_answers_are_named_with_a_fix(server: Any, status: int, says: str) -> None:
    server.answers["/a"] = (status, {}, b"" if status == 204 else BODY)
    with pytest.raises(MediaError, match=rf"/a (with|answered).*{says}|{says}"):
        read_source(f"{server.url}/a", OPEN)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/кот.png".encode().decode("latin-1"), "/%D0%BA%D0%BE%D1%82.png"),
        ("/caf\xe9.png", "/caf%C3%A9.png"),
        ("b c.png", "/x/b%20c.png"),
        ("?y=1", "/x/1?y=1"),
        ("../z#f", "/z"),
    ],
)
def test_a_redirect_is_read_as_browsers_read_it(server: Any, location: str, path: str) -> None:
    server.answers["/x/1"] = (302, {"Location": location}, b"")
    assert read_source(f"{server.url}/x/1", OPEN) == BODY
    assert server.seen[-1][0] == path


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed_and_named(server: Any, status: int) -> None:
    server.answers |= {"/1": (status, {"Location": "/2"}, b""), "/2": (404, {}, b"")}
    assert "/1, redirected to" in refused(f"{server.url}/1")
    server.answers["/1"] = (status, {}, b"")
    assert "redirects to nowhere" in refused(f"{server.url}/1")


# Content encodings.


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZIP", gzip.compress),
        ("deflate", zlib.compress), ("deflate", raw_deflate), ("identity", bytes),
        ("gzip, gzip", lambda d: gzip.compress(gzip.compress(d))), ("aws-chunked", bytes),
        ("deflate, gzip", lambda d: gzip.compress(zlib.compress(d))), ("utf-8", bytes), ("", bytes),
        ("gzip", lambda d: gzip.compress(d[:100]) + gzip.compress(d[100:])),
    ],
)  # fmt: skip
def test_a_compressed_answer_is_decoded(
    server: Any, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    server.answers["/a"] = (200, {"Content-Encoding": coding}, encode(BODY))
    assert read_source(f"{server.url}/a", OPEN) == BODY


@pytest.mark.parametrize("module", ["brotli", "zstd"])
def test_codings_that_need_a_package_are_decoded_or_name_it(server: Any, module: str) -> None:
    coding = {"brotli": "br", "zstd": "zstd"}[module]
    if coding in HTTPResponse.CONTENT_DECODERS:
        pack: Any = pytest.importorskip("brotli" if module == "brotli" else "backports.zstd")
        server.answers["/a"] = (200, {"Content-Encoding": coding}, pack.compress(BODY))
        assert read_source(f"{server.url}/a", OPEN) == BODY
    else:
        server.answers["/a"] = (200, {"Content-Encoding": coding}, BODY)
        assert f"pip install '{client._CODINGS[coding]}'" in refused(f"{server.url}/a")


def compressor(module: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        found: Any = pytest.importorskip(module, reason=f"urllib3 decodes it with {module}")
        return found.compress(data)

    return compress


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate),
        ("gzip, gzip", lambda d: gzip.compress(gzip.compress(d))), ("br", compressor("brotli")),
        ("zstd", compressor("backports.zstd")),
    ],
)  # fmt: skip
def test_what_decodes_to_too_much_is_refused_before_it_is_there(
    server: Any, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    server.answers["/bomb"] = (200, {"Content-Encoding": coding}, encode(bytes(100_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="file_bytes"):
            read_source(f"{server.url}/bomb", limited(file_bytes=2_000_000))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, gzip, gzip, gzip, gzip, gzip, gzip"])
def test_what_does_not_decode_is_named(server: Any, coding: str) -> None:
    server.answers["/a"] = (200, {"Content-Encoding": coding}, BODY)
    assert "/a" in refused(f"{server.url}/a")
