"""What a session keeps of an item until it is answered."""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from ume_core.embedder import Sampling
from ume_core.items import Item, Video
from ume_core.media.isolation import is_rare
from ume_core.session import Embedded, OnToken
from ume_core.signature import Mode

P = TypeVar("P")
Kind = Literal["disc", "gen"]
KINDS: tuple[Kind, ...] = ("disc", "gen")
_SHORT = 2000  # characters


@dataclass(frozen=True)
class How:
    """What is asked for an item.

    Attributes:
        mode: the vectors wanted.
        budget: tokens of gen; 0 in disc mode.
        sampling: how gen chooses them; None is greedy.
    """

    mode: Mode
    budget: int = 0
    sampling: Sampling | None = None


@dataclass(eq=False)
class Ticket(Generic[P]):
    """One caller that waits for a job.

    Attributes:
        future: what the caller holds.
        job: what it waits for.
        deadline: by `time.monotonic`, or None.
        on_token: told of new text.
    """

    future: Future[Embedded]
    job: Job[P]
    deadline: float | None
    on_token: OnToken | None


@dataclass(eq=False)
class Job(Generic[P]):
    """One computation, for one or several callers.

    Attributes:
        number: its own; earlier jobs have lower ones.
        item: what to embed.
        how: what is asked for it.
        scope: whose equal items may share it.
        submitted: by `time.monotonic`.
        due: orders the jobs of a line.
        slow: reading it may take seconds.
        tickets: who waits for it.
        prepared: the item as the engine wants it.
        size: bytes of that.
        key: equal for equal jobs, or None.
        began: when its computation began, by `time.monotonic`; None while it waits.
        texts: what gen has written so far, by sample.
        done: nobody waits for it any more.
    """

    number: int
    item: Item
    how: How
    scope: str
    submitted: float
    due: float
    slow: bool = False
    tickets: list[Ticket[P]] = field(default_factory=list["Ticket[P]"])
    prepared: P | None = None
    size: int = 0
    key: Hashable = None
    began: float | None = None
    texts: dict[int, str] = field(default_factory=dict[int, str])
    done: bool = False


class Line(Generic[P]):
    """The jobs of one kind that wait, the next one first.

    Attributes:
        unread: jobs whose items are to be prepared.
        slow: those among them that may take seconds.
        ready: jobs that are to be computed.
        held: bytes of the prepared items, of those being prepared as a guess.
    """

    def __init__(self, most_jobs: int, most_bytes: int) -> None:
        self.unread = Queue[P]()
        self.slow = Queue[P]()
        self.ready = Queue[P]()
        self.held = 0
        self.reading = 0
        self._most_jobs, self._most_bytes = most_jobs, most_bytes

    def __len__(self) -> int:
        return len(self.unread) + len(self.slow) + len(self.ready) + self.reading

    def unread_of(self, job: Job[P]) -> Queue[P]:
        """Where a job waits to be read."""
        return self.slow if job.slow else self.unread

    @property
    def has_room(self) -> bool:
        """Whether one more item may be prepared ahead of the engine."""
        jobs = len(self.ready) + self.reading
        return jobs == 0 or (jobs < self._most_jobs and self.held < self._most_bytes)


class Queue(Generic[P]):
    """Jobs in the order in which they are due."""

    def __init__(self) -> None:
        self._jobs: list[tuple[float, int, Job[P]]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job[P]]:
        return (job for _, _, job in self._jobs)

    @property
    def due(self) -> float:
        """When the next one is due; infinity if there is none."""
        return self._jobs[0][0] if self._jobs else float("inf")

    def put(self, job: Job[P]) -> None:
        """Add one in its place."""
        bisect.insort(self._jobs, (job.due, job.number, job))

    def pop(self) -> Job[P]:
        """Take the next one out."""
        return self._jobs.pop(0)[2]

    def discard(self, job: Job[P]) -> None:
        """Take one out, if it is there."""
        at = bisect.bisect_left(self._jobs, (job.due, job.number))
        if at < len(self._jobs) and self._jobs[at][2] is job:
            del self._jobs[at]


def kind_of(job: Job[P]) -> Kind:
    """Which line a job waits in."""
    return "disc" if job.how.mode == "disc" else "gen"


def reads_slowly(item: Item) -> bool:
    """Whether it holds a clip, a picture of a rare kind, or anything that is fetched."""
    for part in item.media:
        source = part.source
        if isinstance(part, Video) and part.frames is None:
            return True
        if isinstance(source, bytes) and is_rare(source):
            return True
        if isinstance(source, str) and source[:8].lower().startswith(("http:", "https:")):
            return True
    return False


def reads_at_once(item: Item) -> bool:
    """Whether it is a short text."""
    return not item.media and len(item.text) + len(item.instruction or "") <= _SHORT


def tell(ticket: Ticket[P], sample: int, text: str) -> None:
    """Hand on new text of an answer."""
    if ticket.on_token is not None:
        with suppress(Exception):  # a listener's fault is its own
            ticket.on_token(sample, text)
