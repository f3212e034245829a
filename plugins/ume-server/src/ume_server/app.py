"""The routes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from ume_core.errors import UmeError
from ume_core.fetch import Access
from ume_core.session import Session
from ume_core.signature import Signature
from ume_server import examples
from ume_server.errors import ApiError, public
from ume_server.middleware import Gate
from ume_server.service import Answered, ClientGone, Service, nearby
from ume_server.settings import SERVER_POLICY, Settings
from ume_server.wire import cohere, openai, voyage
from ume_server.wire.ask import Ask, Served, read_json
from ume_server.wire.parts import PartReader, fetches

_OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"  # where traces go, if it is set
_PING_SECONDS = 15.0
_REFUSALS = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
_MANY = 64  # vectors from which an answer is written on a thread


class Api:
    """One served model."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self.service = service
        self._reader = PartReader(
            Access(SERVER_POLICY, settings.limits), urls=bool(settings.url_hosts)
        )

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's embeddings; `stream` sends gen's thinking as it comes."""
        ask = await self._read(request, openai.read_embeddings)
        if ask.stream:
            return await self._stream(ask, request)
        answered = await self._answer(ask, request)
        if not ask.record_errors:
            answered.whole()
        return await self._json(
            ask, lambda: openai.embeddings_answer(ask, answered.outcomes, answered.fetched)
        )

    async def cohere(self, request: Request) -> Response:
        """Cohere's v2 embed."""
        values = await self._values(request)
        ask, kinds = await nearby(
            request.state.size,
            lambda: cohere.read_embed(values, self.service.served, self._reader),
        )
        found = (await self._answer(ask, request)).whole()
        texts = values.get("texts")
        return await self._json(ask, lambda: cohere.embed_answer(ask, kinds, found, texts))

    async def voyage(self, request: Request) -> Response:
        """Voyage's multimodal embeddings."""
        ask = await self._read(request, voyage.read_multimodal)
        answered = await self._answer(ask, request)
        found = answered.whole()
        pixels = answered.weight.image_pixels, answered.weight.video_pixels
        return await self._json(ask, lambda: voyage.multimodal_answer(ask, found, pixels))

    def models(self) -> dict[str, Any]:
        """The model under all its names."""
        served = self.service.served
        return {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": "ume",
                 "dimensions": served.dimensions}
                for name in served.names
            ],
        }  # fmt: skip

    def health(self) -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    def ready(self) -> Response:
        """Whether new requests are taken."""
        if self.service.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ready"})

    def metrics(self) -> Response:
        """Prometheus' exposition."""
        return Response(self.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _values(self, request: Request) -> dict[str, Any]:
        if self.service.draining:
            raise ApiError(
                503, "the server is stopping. Fix: ask again", "draining", retry_after=2.0
            )
        body = await request.body()
        values = await nearby(len(body), lambda: read_json(body, self.service.settings.depth))
        request.state.size = len(body)
        return values

    async def _read(
        self, request: Request, read: Callable[[dict[str, Any], Served, PartReader], Ask]
    ) -> Ask:
        values = await self._values(request)
        served = self.service.served
        return await nearby(request.state.size, lambda: read(values, served, self._reader))

    async def _answer(self, ask: Ask, request: Request) -> Answered:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await self.service.answer(ask, request.state.scope, gone)

    async def _json(self, ask: Ask, build: Callable[[], dict[str, Any]]) -> Response:
        def write() -> bytes:
            return orjson.dumps(build())

        body = await asyncio.to_thread(write) if len(ask.items) >= _MANY else write()
        ignored = {"x-ume-ignored": ", ".join(ask.ignored)} if ask.ignored else {}
        return Response(body, media_type="application/json", headers=ignored)

    async def _stream(self, ask: Ask, request: Request) -> Response:
        weight = await self.service.weigh(ask)
        events = self._events(ask, self.service.stream(ask, weight, request.state.scope))
        return StreamingResponse(
            events, media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )  # fmt: skip

    async def _events(self, ask: Ask, stream: AsyncGenerator[Any]) -> AsyncGenerator[bytes]:
        """Events `token`, then one `embedding` (or `error`), then `[DONE]` as OpenAI ends."""
        async with aclosing(stream):
            fetched = any(not isinstance(i, UmeError) and fetches(i) for i in ask.items)
            try:
                async for piece in _with_pings(stream):
                    if piece is None:
                        yield KEEPALIVE_COMMENT
                    elif isinstance(piece, str):
                        yield _event("token", {"text": piece})
                    elif isinstance(piece, UmeError):
                        yield _event("error", public(piece, fetched=fetched).body())
                    else:
                        yield _event("embedding", openai.embeddings_answer(ask, [piece], [fetched]))
            except ApiError as error:
                yield _event("error", error.body())
            yield format_sse_event(data_str="[DONE]")


async def _with_pings(stream: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """The stream's pieces, and None whenever it has been silent for long."""
    waiting: asyncio.Future[Any] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait({waiting}, timeout=_PING_SECONDS)
            if not done:
                yield None
                continue
            try:
                piece = waiting.result()
            except StopAsyncIteration:
                return
            finally:
                waiting = None
            yield piece
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))


def create_app(
    session: Session, served: Served, signature: Signature, settings: Settings,
    *, add: Callable[[FastAPI, Service], None] | None = None,
) -> tuple[ASGIApp, Service]:  # fmt: skip
    """The ASGI application of one model.

    Args:
        session: computes items.
        served: the model as clients name it.
        signature: of its vectors.
        settings: bounds.
        add: adds more routes, such as the search page's.

    Returns:
        The application behind its gate, and the service, whose `draining` stops it.
    """
    service = Service(session, served, settings, signature.digest)
    api = Api(service)
    app = FastAPI(
        title="UME-R1", description=examples.DESCRIPTION, version="1", docs_url=None,
        redoc_url=None,
        telemetry={"logs": False, "metrics": False, "auto_configure": _OTLP in os.environ},
    )  # fmt: skip
    app.add_api_route("/health", api.health, tags=["server"])
    app.add_api_route("/ready", api.ready, tags=["server"], response_model=None,
                      responses={503: examples.ERROR})  # fmt: skip
    app.add_api_route("/metrics", api.metrics, tags=["server"], response_model=None,
                      response_class=PlainTextResponse)  # fmt: skip
    app.add_api_route("/v1/models", api.models, tags=["embeddings"])
    for path, call, body in (
        ("/v1/embeddings", api.embeddings, examples.EMBEDDINGS),
        ("/v2/embed", api.cohere, examples.COHERE),
        ("/v1/multimodalembeddings", api.voyage, examples.VOYAGE),
    ):
        app.add_api_route(
            path, call, methods=["POST"], tags=["embeddings"], response_model=None,
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": examples.named(body, served.names)},
                }
            },
            responses={
                **dict.fromkeys(_REFUSALS, examples.ERROR),
                **({200: examples.STREAM} if call == api.embeddings else {}),
            },
        )  # fmt: skip
    if add is not None:
        add(app, service)
    _handle_errors(app, service)
    return Gate(app, service), service


def _handle_errors(app: FastAPI, service: Service) -> None:
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if error.status in (408, 413, 429, 503):
            service.metrics.rejected(error.code)
        no_retry = {"x-should-retry": "false"} if error.status in (400, 404, 413) else {}
        return JSONResponse(error.body(), error.status, headers=error.headers | no_retry)

    async def theirs(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        made = ApiError(
            error.status_code, "there is nothing here. Fix: see /openapi.json"
            if error.status_code == 404 else "the method does not suit the path. Fix: see "
            "/openapi.json", "not_found" if error.status_code == 404 else "bad_method",
        )  # fmt: skip
        return JSONResponse(made.body(), error.status_code, headers=error.headers)

    async def gone(_: Request, error: Exception) -> Response:
        del error
        return Response(status_code=499)  # nginx's code; nobody reads it

    async def fault(_: Request, error: Exception) -> Response:
        del error  # the gate logs it
        made = ApiError(500, "the server failed. Fix: ask again", "server_error")
        return JSONResponse(made.body(), 500)

    app.add_exception_handler(Exception, fault)
    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(StarletteHTTPException, theirs)
    app.add_exception_handler(HTTPException, theirs)
    app.add_exception_handler(ClientGone, gone)
