"""The page's routes: what the browser asks for, and the search itself as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, cast

import numpy as np
from fastapi import FastAPI, Request
from fastapi.sse import format_sse_event
from starlette.responses import JSONResponse, Response, StreamingResponse

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.fetch import Access, read_source
from ume_core.items import Item, Part
from ume_core.results import Vectors
from ume_core.retrieval import KINDS, Kind, SearchPolicy, fused, margin
from ume_core.session import Embedded
from ume_core.signature import Mode
from ume_r1.files import item_from_bytes
from ume_r1.index import Hit, Index
from ume_r1.index.options import Asked
from ume_server.admission import Weight
from ume_server.errors import ApiError, public
from ume_server.search.thumbnails import Thumbnails
from ume_server.service import Service
from ume_server.settings import SERVER_POLICY
from ume_server.wire.ask import Ask, Fields, read_json
from ume_server.wire.parts import PartReader

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_MOST = 200  # results
_TEXT = 300  # characters of a text file that a card shows
_NEW_TOKENS = 256
_FIRST: dict[Kind, Mode] = {"disc": "disc", "gen": "gen", "fused": "both", "routed": "disc"}


class _Wanted(TypedDict):
    """Which hits are shown."""

    top: int
    least: float | None
    kind: str | None
    under: str


class SearchPage:
    """A page over one index.

    Attributes:
        index: what is searched.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._known: Mapping[str, tuple[str, str]] = {}

    @classmethod
    def open(cls, directory: Path) -> SearchPage:
        """Over an index directory.

        Raises:
            InvalidOption: it holds no index. DamagedIndex: it is damaged.
        """
        return cls(Index.open(directory))

    def load_model(self, name: str | None, engine: str, options: dict[str, Any]) -> Embedder:
        """The model whose vectors the index holds, under the server's policy and limits.

        Raises:
            SignatureMismatch: another one was asked for.
        """
        asked = Asked(name, engine, {k: v for k, v in options.items() if k != "limits"})
        whole = asked.over(self.index.description.asked)
        model = Asked(
            whole.model, whole.engine, whole.options | {"limits": options["limits"]}
        ).load()
        self.index.require(model.signature(self.index.description.mode))
        return model

    def add(self, app: FastAPI, service: Service) -> None:
        """Add the page's routes to a server's."""
        self._service = service
        self._limits = service.settings.limits
        self._reader = PartReader(Access(SERVER_POLICY, self._limits), urls=False)
        folder = self.index.folder
        # Of a folder on an object store there are no pictures: a page causes no fetch.
        roots = (folder,) if isinstance(folder, Path) else ()
        self._thumbnails = Thumbnails(roots, self._limits)
        for path, (name, kind) in _PAGE.items():
            content = (files("ume_server.search") / "page" / name).read_bytes()
            app.add_api_route(path, _static(content, kind), include_in_schema=False)
        for path, call, methods in (
            ("/about", self.about, ["GET"]),
            ("/thumbnail", self.thumbnail, ["GET"]),
            ("/search", self.search, ["POST"]),
        ):
            app.add_api_route(path, call, methods=methods, include_in_schema=False,
                              response_model=None)  # fmt: skip

    async def about(self) -> Response:
        """What can be searched, and how."""
        known = await asyncio.to_thread(self.index.known)
        folders = sorted({p.rpartition("/")[0] for p in known} - {""})
        about = self.index.description
        return JSONResponse({
            "items": len(known), "folders": folders[:500],
            "folder": PurePosixPath(self.index.folder).name,
            "kinds": sorted({kind for kind, _ in known.values()}),
            "modes": ["disc", "gen", "fused"] if about.mode == "both" else [about.mode],
            "model": self._service.served.name,
        })  # fmt: skip

    async def thumbnail(self, path: str) -> Response:
        """A small picture of an indexed file, by its name in the index."""
        try:
            file, kind = await asyncio.to_thread(self._file, path)
            data = await asyncio.to_thread(self._thumbnails.of, file, kind)
        except (UmeError, OSError):
            raise ApiError(404, "there is no picture of it. Fix: search anew", "gone") from None
        return Response(data, media_type="image/jpeg",
                        headers={"cache-control": "private, max-age=300"})  # fmt: skip

    async def search(self, request: Request) -> Response:
        """Events: `token`s of gen's text, then `results`, or `error`."""
        values = await asyncio.to_thread(
            read_json, await request.body(), self._service.settings.depth
        )
        fields = Fields(values)
        policy = self._policy(fields)
        wanted: _Wanted = {
            "top": fields.whole("top", high=_MOST) or 24,
            "least": fields.number("threshold", -1, 1),
            "kind": fields.choice("kind", "image", "video", "text"),
            "under": fields.text("under") or "",
        }
        try:
            item = await asyncio.to_thread(self._query, fields)
        except UmeError as error:
            raise public(error) from None
        mode = _FIRST[policy.kind]
        weight = await self._service.weigh(self._ask(item, mode))
        events = self._events(item, policy, mode, weight, wanted, request.state.scope)
        return StreamingResponse(events, media_type="text/event-stream")

    def _ask(self, item: Item, mode: Mode) -> Ask:
        return Ask(self._service.served.name, [item], mode, max_new_tokens=_NEW_TOKENS)

    async def _events(
        self, item: Item, policy: SearchPolicy, mode: Mode, weight: Weight, wanted: _Wanted,
        scope: str,
    ) -> AsyncGenerator[bytes]:  # fmt: skip
        try:
            while True:
                found: Embedded | None = None
                stream = self._service.stream(self._ask(item, mode), weight, scope)
                async with aclosing(stream):
                    async for piece in stream:
                        if isinstance(piece, str):
                            yield _event("token", {"text": piece})
                        elif isinstance(piece, UmeError):
                            raise piece
                        else:
                            found = piece
                assert found is not None  # the last piece
                hits = await asyncio.to_thread(self._hits, found, policy, mode, wanted)
                if hits is not None:
                    yield _event("results", await self._results(found, hits, wanted["least"]))
                    return
                mode = "gen"  # disc was unsure
                weight = await self._service.weigh(self._ask(item, mode))
        except ApiError as error:
            yield _event("error", error.body()["error"])
        except UmeError as error:
            yield _event("error", public(error).body()["error"])

    def _hits(
        self, found: Embedded, policy: SearchPolicy, mode: Mode, wanted: _Wanted
    ) -> list[Hit] | None:
        """What is found; None where a routed query should think first."""
        narrow = {"kind": wanted["kind"], "under": wanted["under"]}

        def scores(vector: Vectors | None, of: Mode) -> dict[str, float]:
            assert vector is not None  # as of its mode
            return self.index.scores(vector, of, **narrow)

        if policy.kind == "fused":
            disc, gen = scores(found.disc, "disc"), scores(found.gen, "gen")
            return self.index.best(fused(disc, gen, policy.weight), wanted["top"])
        if policy.kind == "routed" and mode == "disc":
            known = scores(found.disc, "disc")
            gap = margin(np.array(list(known.values())), standardised=policy.standardised)
            return self.index.best(known, wanted["top"]) if gap > policy.threshold else None
        vector = found.gen if mode == "gen" else found.disc
        assert vector is not None
        return self.index.search(vector, mode, wanted["top"], **narrow)

    async def _results(
        self, found: Embedded, hits: list[Hit], least: float | None
    ) -> dict[str, Any]:
        shown = [hit for hit in hits if least is None or hit.score >= least]
        return {
            "thinking": found.record.thinking,
            "summary": found.record.summary,
            "left_out": len(hits) - len(shown),
            "results": await asyncio.to_thread(lambda: [self._card(hit) for hit in shown]),
        }

    def _card(self, hit: Hit) -> dict[str, Any]:
        card: dict[str, Any] = {
            "name": hit.name, "kind": hit.kind, "score": round(float(hit.score), 4),
            "summary": hit.summary, "gone": hit.gone,
        }  # fmt: skip
        if hit.kind == "text" and isinstance(hit.path, Path) and not hit.gone:
            try:
                with hit.path.open(encoding="utf-8", errors="replace") as file:
                    card["text"] = file.read(_TEXT)
            except OSError:
                card["gone"] = True
        return card

    def _policy(self, fields: Fields) -> SearchPolicy:
        """Which vectors decide; by default disc, or what the index holds."""
        held = self.index.description.mode
        asked = fields.choice("mode", *KINDS)
        kind = cast(Kind, asked or ("gen" if held == "gen" else "disc"))
        if held not in ("both", kind):
            raise ApiError(
                400, f"the index holds {held} vectors. Fix: search in that mode", "invalid_mode"
            )
        least = fields.number("margin", 0, 2)
        if kind == "routed" and least is None:
            raise ApiError(
                400, "routed needs 'margin'. Fix: take one from `ume eval scaling`", "no_margin"
            )
        weight = fields.number("weight", 0, 1)
        return SearchPolicy(kind, 0.5 if weight is None else weight, least or 0.0)

    def _query(self, fields: Fields) -> Item:
        """What to look for: an indexed file, or words, a picture and a clip together."""
        like = fields.text("like")
        if like is not None:
            path, kind = self._file(like)
            try:
                data = read_source(path, self._thumbnails.access)
            except UmeError:  # its message names the file's place on this machine
                raise InvalidOption("the file cannot be read any more", fix="search anew") from None
            return item_from_bytes(data, kind, "the file", self._limits)
        parts: list[Part] = []
        for name in ("image", "video"):
            source = fields.text(name)
            if source:
                parts += self._reader.parts({name: source})
        words = (fields.text("text") or "").strip()
        parts += self._reader.parts(words) if words else []
        if not parts:
            raise ApiError(400, "nothing to look for. Fix: type words or add a picture", "empty")
        return Item(tuple(parts))

    def _file(self, name: str) -> tuple[Path, str]:
        """A file or page of the index; only names that stand in it are."""
        if name not in self._known:
            self._known = self.index.known()
        if name not in self._known:
            raise InvalidOption("there is no such file in the index", fix="search anew")
        folder = self.index.folder
        if not isinstance(folder, Path):
            raise InvalidOption("the file is on an object store", fix="search by words")
        return folder / name, self._known[name][0]


def _static(content: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))
