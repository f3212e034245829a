"""The session: single items from many callers, each answered when it is done.

`Embedder.embed` is one call with a list; a server has many callers with an item each. A session
takes an item, gives a future, and lets the engine compute what waits together.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from ume_core.embedder import Embedder, Sampling
from ume_core.items import ItemLike
from ume_core.results import Record, Vectors
from ume_core.signature import Mode, Signature

OnToken: TypeAlias = Callable[[int, str], None]
Lane: TypeAlias = Literal["query", "bulk"]
LANES: tuple[Lane, ...] = ("query", "bulk")
BULK_LATER = 5.0  # seconds


@dataclass(frozen=True)
class Embedded:
    """One item's vectors.

    Attributes:
        record: what happened to it.
        signature: of its vectors.
        disc: float32 (dimensions,), unit length; None if not asked for.
        gen_samples: float32 (samples, dimensions), unit length; None if not asked for.
        waited: seconds from its submission until its computation began.
    """

    record: Record
    signature: Signature
    disc: Vectors | None = None
    gen_samples: Vectors | None = None
    waited: float = 0.0

    @property
    def gen(self) -> Vectors | None:
        """float32 (dimensions,): the first (greedy: only) sample's vector."""
        return None if self.gen_samples is None else self.gen_samples[0]


@dataclass(frozen=True)
class Load:
    """What a session is busy with.

    Attributes:
        waiting: items of each mode that wait, to be read or to be computed.
        running: items of each mode that are being computed.
        reading: those among them that are not read yet.
        shared: items so far that found an equal one in flight and took its answer.
    """

    waiting: dict[str, int] = field(default_factory=dict[str, int])
    running: dict[str, int] = field(default_factory=dict[str, int])
    reading: int = 0
    shared: int = 0


class Session(Protocol):
    """Computes items of many callers together. Thread-safe.

    Promises: an item's vector equals the one `Embedder.embed` gives it alone, within the engine's
    tolerance; a failed item fails nobody else's.
    """

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
        """Ask for one item's vectors.

        Args:
            item: any spelling `as_item` accepts.
            mode: `disc`, `gen` or `both`.
            instruction: task instruction, if the item has none of its own.
            sampling: repeated sampling (gen and both only).
            max_new_tokens: budget of gen; None takes `Limits.new_tokens`.
            deadline: seconds from now after which the answer is of no use.
            on_token: told the number of the sample and its new text as gen writes, from the
                session's own thread: it must return at once. The texts together are `Sample.text`.
            lane: `bulk` lets queries of the same mode go first, but not for ever.
            scope: items that are equal and in flight share one computation within one scope; with
                a scope for every client, none learns from timing what others ask for.

        Returns:
            A future whose `cancel` frees what the item holds, within one step. It raises the
            item's own `UmeError`: `DeadlineExceeded`, `InvalidItem`, `MediaError` and so on.
            Callbacks added to it must return at once.

        Raises:
            UmeError: the item or an option is wrong, which is seen at once.
            EngineUnavailable: the session is closed.
        """
        ...

    def load(self) -> Load:
        """What it is busy with."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Take no more items, and return when the last is done.

        Args:
            drain: whether items that wait or run are finished first; otherwise they fail.
        """
        ...

    def __enter__(self) -> Session:
        """Itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; without draining if there was an error."""
        ...


@runtime_checkable
class HasSession(Protocol):
    """An engine that brings a session of its own."""

    def session(self, *, bulk_later: float = BULK_LATER) -> Session:
        """A new one; see `open_session`."""
        ...


def open_session(embedder: Embedder, *, bulk_later: float = BULK_LATER) -> Session:
    """A session on a loaded model: the engine's own, or one that calls `embed` with what waits.

    ```python
    with open_session(ume_core.load("ume-nano")) as session:
        futures = [session.submit(text) for text in ("a dog", "a bus")]
        vectors = [future.result().disc for future in futures]
    ```

    Args:
        embedder: the model.
        bulk_later: seconds by which bulk lets queries that come after it go first.
    """
    if isinstance(embedder, HasSession):
        return embedder.session(bulk_later=bulk_later)
    from ume_core.sessions.plain import PlainSession

    return PlainSession(embedder, bulk_later)
