"""Where downloads go, how long they take, and what they need: real sockets on loopback."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ume_core import (
    EngineUnavailable,
    Limits,
    MediaError,
    Policy,
    PolicyViolation,
    UmeError,
)
from ume_core import download as client
from ume_core.addresses import is_public
from ume_core.fetch import Access, read_source

BODY = b"picture" * 500
OPEN = Access(Policy(private_networks=True))


def limited(**limits: Any) -> Access:
    return Access(Policy(private_networks=True), Limits(**limits))


def refused(url: str, access: Access = OPEN) -> str:
    with pytest.raises(UmeError, match="Fix: ") as caught:
        read_source(url, access)
    return str(caught.value)


# Addresses.


def test_the_next_address_is_tried(server: Any, names: dict[str, list[tuple[str, int]]]) -> None:
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    names["h.example"] = [closed.getsockname(), ("127.0.0.1", server.server_port)]
    assert read_source("http://h.example/", OPEN) == BODY
    closed.close()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    server: Any, names: dict[str, list[tuple[str, int]]]
) -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    waiting = [socket.socket() for _ in range(3)]  # its queue is full: more are not answered
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(silent.getsockname())
    names["h.example"] = [silent.getsockname(), ("127.0.0.1", server.server_port)]
    began = time.monotonic()
    assert read_source("http://h.example/", limited(url_seconds=6.0)) == BODY
    assert 1.0 < time.monotonic() - began < 6.0
    for one in (silent, *waiting):
        one.close()


@pytest.mark.parametrize("order", [1, -1])
def test_one_private_address_among_public_ones_is_enough_to_refuse(
    server: Any, names: dict[str, list[tuple[str, int]]], order: int
) -> None:
    names["h.example"] = [("93.184.216.34", 80), ("127.0.0.1", server.server_port)][::order]
    with pytest.raises(PolicyViolation, match="private"):
        read_source("http://h.example/", Access())
    assert server.connections == 0


def test_a_name_is_looked_up_once(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        port = server.server_port if len(asked) == 1 else 9
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert read_source("http://rebinding.example/", OPEN) == BODY
    assert asked == ["rebinding.example"]


def test_a_redirect_to_a_private_address_is_refused_unvisited(
    server: Any, names: dict[str, list[tuple[str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = is_public
    monkeypatch.setattr(client, "is_public", lambda a: a == "127.0.0.1" or real(a))
    names["inside.example"] = [("127.0.0.2", server.server_port)]
    server.answers["/1"] = (302, {"Location": "http://inside.example/2"}, b"")
    with pytest.raises(PolicyViolation, match="private"):
        read_source(f"{server.url}/1", Access())
    assert [path for path, _ in server.seen] == ["/1"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1",
        "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.",
        "[::1]", "[::]", "[::ffff:127.0.0.1]",
        "[::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]", "１２７.0.0.1", "127。0。0。1", "user@127.0.0.1",
        "127.0.0.1\\@example.com",
        "example.com@127.0.0.1", "example.com:80@127.0.0.1", "%31%32%37.0.0.1", "[fe80::1%25lo]",
        "localhost%2e", "ⓛocalhost",
    ],
)  # fmt: skip
def test_no_spelling_of_loopback_reaches_it(server: Any, host: str) -> None:
    for url in (f"http://{host}:{server.server_port}/", f"http://{host}/", f"https://{host}/"):
        with pytest.raises((PolicyViolation, MediaError), match="Fix: "):
            read_source(url, Access(limits=Limits(url_seconds=2.0)))
    assert server.connections == 0


def test_proxies_of_the_environment_see_nothing(
    server: Any, names: dict[str, list[tuple[str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, server.url)
    assert "proxies are not used" in refused("http://h.example/a")
    assert server.connections == 0
    names["h.example"] = [("127.0.0.1", server.server_port)]
    assert read_source("http://h.example/a", OPEN) == BODY
    assert server.seen[-1][0] == "/a"  # not the whole URL, as a proxy would be asked


# Time.


def test_a_slow_name_server_is_left_at_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(10) and [])
    began = time.monotonic()
    assert "url_seconds" in refused("http://h.example/", limited(url_seconds=0.4))
    assert time.monotonic() - began < 8
    let_go.set()


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of h.example and its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=h.example", "-addext", "subjectAltName=DNS:h.example",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


def _encrypt(server: Any, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # Handshakes in the handlers' threads: one that fails must not end the server's own.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )


def test_a_certificate_is_checked_against_the_name_not_the_address(
    server: Any, names: dict[str, list[tuple[str, int]]], certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _encrypt(server, certificate)
    for name in ("h.example", "other.example"):
        names[name] = [("127.0.0.1", server.server_port)]
    message = refused("https://h.example/a")
    assert "certificate" in message
    # The fix, followed:
    assert "SSL_CERT_FILE" in message
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert read_source("https://h.example/a", OPEN) == BODY
    assert server.headers["host"] == "h.example"
    assert "certificate" in refused("https://other.example/a")
    assert "certificate" in refused(f"https://127.0.0.1:{server.server_port}/a")


@pytest.mark.parametrize("silent", ["handshake", "body"])
def test_a_slow_tls_server_is_left_at_the_time_limit(
    names: dict[str, list[tuple[str, int]]], certificate: Path, monkeypatch: pytest.MonkeyPatch,
    silent: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            try:
                if silent == "body":
                    connection = context.wrap_socket(connection, server_side=True)
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(400):
                    if silent == "body":
                        connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                return

    threading.Thread(target=work, daemon=True).start()
    names["h.example"] = [listener.getsockname()]
    began = time.monotonic()
    assert "url_seconds" in refused("https://h.example/a", limited(url_seconds=0.6))
    assert time.monotonic() - began < 10


# What servers say, and what a download needs.


def _serve(answer: Callable[[socket.socket], None]) -> str:
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(1000)
            try:
                answer(connection)
            except OSError:
                return

    threading.Thread(target=work, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/x"


def test_a_server_cannot_write_into_the_message() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 404 \x1b[31mowned\r\nContent-Length: 0\r\n\r\n")

    assert "owned" not in refused(_serve(answer))


def test_without_urllib3_the_fix_says_what_to_install(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ume_core

    monkeypatch.delattr(ume_core, "download")
    monkeypatch.delitem(sys.modules, "ume_core.download")
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(EngineUnavailable, match=r"need urllib3.*pip install 'urllib3>="):
        read_source(f"{server.url}/a", OPEN)


def test_a_urllib3_that_does_not_bound_what_it_decodes_is_refused(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "urllib3_version", "2.5.0")
    with pytest.raises(EngineUnavailable, match=r"pip install 'urllib3>=2\.6\.3'"):
        read_source(f"{server.url}/a", OPEN)


def test_a_brotli_without_a_bound_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    monkeypatch.setitem(sys.modules, "brotlicffi", None)
    monkeypatch.setitem(sys.modules, "brotli", Old)  # type: ignore[arg-type]
    assert not client.brotli_is_bounded()


def test_an_interrupted_download_leaves_no_socket_open(server: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    server.answers["/404"] = (404, {}, BODY)
    for _ in range(5):
        refused(f"{server.url}/404")
        read_source(f"{server.url}/a", OPEN)
    server.answers["/big"] = (200, {}, bytes(3_000_000))
    refused(f"{server.url}/big", limited(file_bytes=10))
    time.sleep(0.2)
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert read_source(f"{server.url}/a", OPEN) == BODY


@pytest.mark.parametrize("hosts", [("allowed.example",), "allowed.example"])
def test_only_hosts_on_the_list_are_asked_and_no_other_name_is_looked_up(
    server: Any, names: dict[str, list[tuple[str, int]]], hosts: Any
) -> None:
    where = [("127.0.0.1", server.server_port)]
    names["allowed.example"] = where
    access = Access(Policy(private_networks=True, hosts=hosts))
    assert read_source("http://Allowed.example/a.png", access)
    for url in (
        "http://other.example/a.png", "http://allowed.example.other/", "http://127.0.0.1/a.png",
        "http://allowed.example@other.example/", "http://other.example\\@allowed.example/",
    ):  # fmt: skip
        with pytest.raises(PolicyViolation, match=r"not among the hosts.*Fix: "):
            read_source(url, access)
