"""A web server and a name server for the tests of downloads."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import pytest

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
