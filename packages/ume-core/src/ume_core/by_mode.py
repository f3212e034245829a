"""One model on two engines: each mode on the one that serves it best."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import NoReturn

from ume_core.embedder import BeginsAnswers, Embedder, OnError, Progress, Sampling
from ume_core.errors import CheckpointError, EngineUnavailable, InvalidOption, ModeNotSupported
from ume_core.forks import call_in_progress
from ume_core.items import ItemLike
from ume_core.results import EmbeddingResult
from ume_core.session import (
    BULK_LATER,
    Embedded,
    Lane,
    Load,
    OnToken,
    Session,
    open_session,
)
from ume_core.signature import Mode, Signature, check_mode


class ByMode:
    """An embedder whose first engine lacks a mode, which another brings when it is first asked.

    The two compute the same vectors (their signatures are compared), and the first is there in a
    tenth of the second's time. `both` is one pass of the second.

    Attributes:
        name: the engines' names, with `+` between.
        modes: those of both.
        first: the engine that is loaded.
    """

    def __init__(
        self,
        first: Embedder,
        second_name: str,
        modes: frozenset[Mode],
        load: Callable[[], Embedder],
    ) -> None:
        """Put two engines together.

        Args:
            first: serves the modes that it has.
            second_name: the other engine's name.
            modes: the other's modes.
            load: loads the other.
        """
        self.first = first
        self.name = f"{first.name}+{second_name}"
        self.modes: frozenset[Mode] = first.modes | modes
        self._load, self._lock = load, threading.Lock()
        self._second: Embedder | None = None

    def __repr__(self) -> str:
        return f"<{self.signature('disc').model} on {self.name}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A loaded model has no pickled form.

        Raises:
            InvalidOption: always; with what to do instead.
        """
        raise InvalidOption(
            "a loaded model cannot be pickled or copied", fix="load it in each process"
        )

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self.first.dimensions

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode, whichever engine makes them."""
        return self.first.signature(mode)

    def part(self, mode: str) -> Embedder:
        """The engine that serves a mode, loaded if it was not yet.

        Raises:
            InvalidOption: no such mode.
            CheckpointError: the engines do not compute the same vectors.
        """
        if check_mode(mode) in self.first.modes:
            return self.first
        with call_in_progress(), self._lock:
            if self._second is None:
                second = self._load()
                found = self.first.signature("disc").differences(second.signature("disc"))
                if found:
                    raise CheckpointError(
                        f"{self.name} do not compute the same vectors ({'; '.join(found)})",
                        fix="export the graphs again, or load with one engine: engine='torch'",
                    )
                self._second = second
        return self._second

    def embed(
        self,
        items: Sequence[ItemLike],
        *,
        mode: Mode = "disc",
        instruction: str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> EmbeddingResult:
        """See `Embedder.embed`."""
        return self.part(mode).embed(
            items,
            mode=mode,
            instruction=instruction,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            on_error=on_error,
            progress=progress,
        )

    def embed_after(
        self,
        items: Sequence[ItemLike],
        beginnings: Sequence[str],
        *,
        max_new_tokens: int | None = None,
    ) -> EmbeddingResult:
        """See `BeginsAnswers`.

        Raises:
            ModeNotSupported: the engine that has gen cannot be told.
        """
        engine = self.part("gen")
        if not isinstance(engine, BeginsAnswers):
            raise ModeNotSupported(
                f"the {engine.name} engine cannot be told how answers begin",
                fix='use engine="torch"',
            )
        return engine.embed_after(items, beginnings, max_new_tokens=max_new_tokens)

    def session(self, *, bulk_later: float = BULK_LATER) -> Session:
        """A session of each engine behind one; see `open_session`."""
        return ByModeSession(self, bulk_later)


class ByModeSession:
    """Sends each item to a session of the engine that serves its mode."""

    def __init__(self, embedder: ByMode, bulk_later: float) -> None:
        """Open nothing yet.

        Args:
            embedder: the engines.
            bulk_later: see `open_session`.
        """
        self._embedder, self._bulk_later = embedder, bulk_later
        self._lock = threading.Lock()
        self._parts: dict[str, Session] = {}
        self._closed = False

    def submit(
        self,
        item: ItemLike,
        *,
        mode: Mode = "disc",
        instruction: str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        deadline: float | None = None,
        on_token: OnToken | None = None,
        lane: Lane = "query",
        scope: str = "",
    ) -> Future[Embedded]:
        """See `Session.submit`. The first gen item waits until that engine is loaded."""
        engine = self._embedder.part(mode)
        with self._lock:
            if self._closed:
                raise EngineUnavailable("the session is closed", fix="open a new one")
            part = self._parts.get(engine.name)
            if part is None:
                part = open_session(engine, bulk_later=self._bulk_later)
                self._parts[engine.name] = part
        return part.submit(
            item,
            mode=mode,
            instruction=instruction,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            deadline=deadline,
            on_token=on_token,
            lane=lane,
            scope=scope,
        )

    def load(self) -> Load:
        """The sum of the parts'."""
        with self._lock:
            parts = [part.load() for part in self._parts.values()]
        waiting, running = Counter[str](), Counter[str]()
        for part in parts:
            waiting.update(part.waiting)
            running.update(part.running)
        reading, shared = sum(p.reading for p in parts), sum(p.shared for p in parts)
        return Load(dict(waiting), dict(running), reading, shared)

    def close(self, *, drain: bool = True) -> None:
        """See `Session.close`."""
        with self._lock:
            self._closed, parts = True, list(self._parts.values())
        for part in parts:
            part.close(drain=drain)

    def __enter__(self) -> ByModeSession:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; without draining if there was an error."""
        self.close(drain=kind is None)
