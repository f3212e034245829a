"""What stands before every route, in plain ASGI: `BaseHTTPMiddleware` would hide disconnects."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ume_server.errors import ApiError
from ume_server.service import Service

log = logging.getLogger("ume_server")
_OPEN = frozenset(("/health", "/ready"))
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy",
     b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
     b"media-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
     b"frame-ancestors 'none'"),
]  # fmt: skip


# No task of its own, which `wait_for` makes of every message. Python 3.11's.
_within: Any = asyncio.timeout  # pyright: ignore[reportAttributeAccessIssue]


class Gate:
    """Host, key, size and time of every request; headers of every answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        settings = service.settings
        self._keys = [key.encode() for key in settings.keys]
        self._hosts = {host.lower() for host in settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._service, scope["path"])
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            self._service.admission.receive(size)
            held += size

        try:
            headers = dict(scope["headers"])
            self._check_host(headers)
            if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
                raise ApiError(
                    403, "pages of other sites may not ask here. Fix: use this server's own page",
                    "cross_site",
                )  # fmt: skip
            scope.setdefault("state", {})["scope"] = self._check_key(headers, scope["path"])
            body = await self._body(scope, headers, receive, hold)
            await self._app(scope, _replayed(body, receive), answer)
        except ApiError as error:
            if error.status in (408, 413, 429, 503):
                self._service.metrics.rejected(error.code)
            await answer.refuse(error)
        except _Slow:
            log.info("a client did not take its answer in time")
        except Exception:
            log.exception("an answer failed")
            if answer.begun:
                raise
            await answer.refuse(ApiError(500, "the server failed. Fix: ask again", "server_error"))
        finally:
            self._service.admission.release(held)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if not self._hosts:
            return
        name = headers.get(b"host", b"").decode("latin-1").strip().lower()
        bare = name.rsplit("]", 1)[0] + "]" if name.startswith("[") else name.partition(":")[0]
        # Rebinding needs a name of the attacker's; an address cannot be one.
        if bare not in self._hosts and not _is_address(bare):
            raise ApiError(
                421, "this host is not served here. Fix: use the server's own name", "wrong_host"
            )

    def _check_key(self, headers: dict[bytes, bytes], path: str) -> str:
        """Whose request it is, for what may be shared; all keys are compared, in equal time."""
        if not self._keys or path in _OPEN:
            return ""
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer":
            key = key.strip()
        elif scheme.lower() == b"basic":  # what browsers ask their users for, for the page
            key = _password(key)
        else:
            key = headers.get(b"x-api-key", b"")
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if not any(matches):
            raise ApiError(
                401, "the API key is missing or wrong. Fix: send Authorization: Bearer KEY",
                "invalid_api_key",
            )  # fmt: skip
        return blake2b(key, digest_size=16).hexdigest()

    async def _body(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive,
        hold: Callable[[int], None],
    ) -> bytes:  # fmt: skip
        """The whole body, within its bounds."""
        settings = self._service.settings
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return b""
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in (b"", b"identity"):
            raise ApiError(
                415, "compressed bodies are not taken. Fix: send it as it is", "content_encoding"
            )
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > settings.body_bytes:
            raise _too_large(settings.body_bytes)
        try:
            async with _within(settings.body_seconds):
                return await _received(receive, hold, settings.body_bytes)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not come within {settings.body_seconds:g} s. Fix: send it at "
                "once", "body_too_slow",
            ) from None  # fmt: skip


async def _received(receive: Receive, hold: Callable[[int], None], most: int) -> bytes:
    """All of a body."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Slow
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > most:
            raise _too_large(most)
        hold(len(chunk))
        body += chunk
        if not message.get("more_body", False):
            return bytes(body)


class _Slow(Exception):
    """The client has left, or does not take what it is sent."""


class _Answer:
    """An answer on its way out; callable as ASGI's `send`."""

    def __init__(self, send: Send, service: Service, path: str) -> None:
        self._send, self._service, self._path = send, service, path
        self.begun = False

    async def __call__(self, message: Message) -> None:
        """Send, unless the client takes too long."""
        if message["type"] == "http.response.start":
            self.begun = True
            self._service.metrics.sent(self._path, message["status"])
            present = {name.lower() for name, _ in message.get("headers", [])}
            more = [(n, v) for n, v in _HEADERS if n not in present]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        try:
            async with _within(self._service.settings.send_seconds):
                await self._send(message)
        except TimeoutError:
            raise _Slow from None

    async def refuse(self, error: ApiError) -> None:
        """Send an error; the connection ends where the body was not read to its end."""
        if self.begun:
            return
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        if error.status in (408, 413, 429):
            headers["connection"] = "close"
        if error.status == 401:
            headers["www-authenticate"] = 'Basic realm="the API key as the password"'
        if error.status in (400, 413):
            headers["x-should-retry"] = "false"
        encoded = [(k.encode(), v.encode()) for k, v in (headers | error.headers).items()]
        with suppress(_Slow):
            await self({"type": "http.response.start", "status": error.status, "headers": encoded})
            await self({"type": "http.response.body", "body": body})


def _password(basic: bytes) -> bytes:
    try:
        return base64.b64decode(basic, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _too_large(bound: int) -> ApiError:
    return ApiError(
        413, f"the body has more than {bound:,} bytes. Fix: send fewer or smaller items",
        "body_too_large",
    )  # fmt: skip


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes: that the client has left."""
    given: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again
