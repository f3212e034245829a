"""Between a request and the session: submit, wait, leave when the client does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.session import Embedded, OnToken, Session
from ume_server.admission import Admission, Weight, check_request, weigh
from ume_server.errors import public
from ume_server.metrics import Metrics
from ume_server.settings import Settings
from ume_server.wire.ask import Ask, Served
from ume_server.wire.parts import fetches

Outcome = Embedded | UmeError
Gone = Callable[[], Awaitable[None]]
T = TypeVar("T")


_SMALL = 64 * 1024  # bytes that are read sooner than a thread would take over


async def nearby(size: int, work: Callable[[], T]) -> T:
    """Do it here if it is small, else on a thread: base64 of megabytes must not stop the others.

    A thread has to wait for the interpreter, which computes meanwhile: milliseconds each time.
    """
    return work() if size <= _SMALL else await asyncio.to_thread(work)


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclass
class Answered:
    """A request's outcomes.

    Attributes:
        outcomes: per item, in order.
        fetched: whether each names a URL.
        weight: of the request.
    """

    outcomes: list[Outcome]
    fetched: list[bool]
    weight: Weight

    def whole(self) -> list[Embedded]:
        """All vectors.

        Raises:
            ApiError: the first bad item's.
        """
        for index, outcome in enumerate(self.outcomes):
            if isinstance(outcome, UmeError):
                raise public(_at(outcome, index), param="input", fetched=self.fetched[index])
        return [o for o in self.outcomes if isinstance(o, Embedded)]


class Service:
    """One model for all requests of one event loop.

    Attributes:
        served: the model as clients name it.
        settings: bounds.
        metrics: what is counted.
        admission: what is in flight.
        draining: no new requests are taken.
    """

    def __init__(
        self, session: Session, served: Served, settings: Settings, signature: str
    ) -> None:
        self._session = session
        self.served, self.settings = served, settings
        self.admission = Admission(settings)
        self.metrics = Metrics(session, self.admission, signature)
        self.draining = False

    async def weigh(self, ask: Ask) -> Weight:
        """A request's weight, if it is within the bounds of one, and no item of it is bad.

        Raises:
            ApiError: 413; 400 where items are bad and may not fail alone.
        """
        media = sum(len(item.media) for item in ask.items if isinstance(item, Item))
        size = _SMALL + 1 if media else len(ask.items)  # headers of media are looked at
        weight = await nearby(size, lambda: weigh(ask.items, self.settings.limits))
        check_request(ask, weight, self.settings)
        if not ask.record_errors:
            for index, item in enumerate(ask.items):
                if isinstance(item, UmeError):
                    raise public(_at(item, index), param="input")
        return weight

    async def answer(self, ask: Ask, scope: str, gone: Gone) -> Answered:
        """All items of a request.

        Args:
            ask: the request.
            scope: whose equal items may share a computation.
            gone: returns when the client has left.

        Raises:
            ApiError: it is refused.
            ClientGone: the client left; what it asked for is not computed any more.
        """
        began = time.monotonic()
        weight = await self.weigh(ask)
        with self.admission.admitted(weight):
            tasks = [self._start(ask, item, scope) for item in ask.items]
            watch = asyncio.ensure_future(gone())
            everything = asyncio.gather(*tasks, return_exceptions=True)
            try:
                await asyncio.wait((everything, watch), return_when=asyncio.FIRST_COMPLETED)
                if not everything.done():
                    raise ClientGone
                outcomes = [self._outcome(ask, found) for found in everything.result()]
            finally:
                watch.cancel()
                for task in tasks:
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    await everything
        self.metrics.took(ask.mode, time.monotonic() - began)
        fetched = [isinstance(i, Item) and fetches(i) for i in ask.items]
        return Answered(outcomes, fetched, weight)

    async def stream(self, ask: Ask, weight: Weight, scope: str) -> AsyncGenerator[str | Outcome]:
        """One item's text as gen writes it, then its outcome. Closing it frees the item's rows.

        Args:
            ask: the request, as `weigh` let it through.
            weight: of it.
            scope: whose equal items may share a computation.

        Raises:
            ApiError: there is no room for it.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[str | None] = asyncio.Queue()

        def on_token(sample: int, text: str) -> None:
            if sample == 0:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(came.put_nowait, text)

        began = time.monotonic()
        with self.admission.admitted(weight):
            future = self._start(ask, ask.items[0], scope, on_token)
            future.add_done_callback(lambda _: came.put_nowait(None))
            try:
                while (text := await came.get()) is not None:
                    yield text
                (found,) = await asyncio.gather(future, return_exceptions=True)
                yield self._outcome(ask, found)
            finally:
                future.cancel()
        self.metrics.took(ask.mode, time.monotonic() - began)

    def _start(
        self, ask: Ask, item: Item | UmeError, scope: str, on_token: OnToken | None = None
    ) -> asyncio.Future[Embedded]:
        failed: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        try:
            if isinstance(item, UmeError):
                raise item
            longest = self.settings.answer_seconds
            future = self._session.submit(
                item, mode=ask.mode, instruction=ask.instruction, sampling=ask.sampling,
                max_new_tokens=ask.max_new_tokens, on_token=on_token, lane=ask.lane_taken,
                deadline=min(ask.deadline or longest, longest), scope=scope,
            )  # fmt: skip
        except UmeError as error:
            failed.set_exception(error)
            return failed
        return asyncio.wrap_future(future)

    def _outcome(self, ask: Ask, found: Embedded | BaseException) -> Outcome:
        if isinstance(found, Embedded):
            self.metrics.answered(ask.mode, found)
            return found
        if isinstance(found, UmeError):
            self.metrics.failed(ask.mode, public(found).code)
            return found
        raise found


def warm(session: Session, served: Served) -> None:
    """Compute something in every mode: an engine may be loaded at its first item."""
    for mode in served.modes:
        session.submit("warm", mode=mode, max_new_tokens=None if mode == "disc" else 1).result()


def _at(error: UmeError, index: int) -> UmeError:
    """The same error with the item's number: one that requests share is not changed."""
    copy = type(error)(error.cause, fix=error.fix, item=index)
    copy.__cause__ = error
    return copy
