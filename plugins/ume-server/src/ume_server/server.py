"""One listening socket, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ume_core.session import Session
from ume_server.errors import ApiError
from ume_server.service import Service

log = logging.getLogger("ume_server")
_HEAD_BYTES = 32 * 1024


class Protocol(H11Protocol):
    """uvicorn's, with a time for the request's head and an answer for one that is too long."""

    head_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        """A client has come; its first request must follow."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._late.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """A head that is whole stops the clock; one that has begun starts it."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._late.cancel()
        elif self._late.cancelled() and self._begins():
            self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _begins(self) -> bool:
        """Whether a part of the next request's head is there."""
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """431 where the head is too long, in our shape of errors."""
        log.info("%s", msg)
        long = len(self.conn.trailing_data[0]) >= _HEAD_BYTES // 2
        error = (
            ApiError(431, "the headers are too long. Fix: send fewer", "headers_too_long")
            if long
            else ApiError(400, "this is no valid HTTP. Fix: use an HTTP client", "invalid_http")
        )
        self._say(error)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._say(ApiError(408, "the headers did not come. Fix: send them", "headers_too_slow"))

    def _say(self, error: ApiError) -> None:
        if not self.transport.is_closing():
            body = json.dumps(error.body()).encode()
            head = (
                f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's; told to stop, it refuses new requests, finishes those it has, then ends."""

    def __init__(self, app: ASGIApp, service: Service, session: Session) -> None:
        settings = service.settings
        protocol = type("Protocol", (Protocol,), {"head_seconds": settings.head_seconds})
        super().__init__(
            uvicorn.Config(
                app, http=protocol, ws="none", lifespan="auto", log_config=None, access_log=False,
                server_header=False, date_header=False, limit_concurrency=settings.connections,
                timeout_keep_alive=30, h11_max_incomplete_event_size=_HEAD_BYTES,
                timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
            )
        )  # fmt: skip
        self._service, self._session = service, session

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM or SIGINT; a second SIGINT ends at once."""
        self._service.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs, within `Settings.drain_seconds`."""
        self._service.draining = True
        waiting = self._service.admission.items
        log.info("stopping: %d items are being finished", waiting)
        await super().shutdown(sockets)
        await asyncio.to_thread(self._session.close, drain=False)


def bind(host: str, port: int) -> socket.socket:
    """The one socket; it is to listen once the model is there, so that nobody waits for that.

    Raises:
        OSError: the address is in use, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def serve(
    app: ASGIApp, service: Service, session: Session, sock: socket.socket,
    started: Callable[[Server], None] | None = None,
) -> None:  # fmt: skip
    """Serve until told to stop."""
    server = Server(app, service, session)
    if started is not None:
        started(server)
    server.run(sockets=[sock])
