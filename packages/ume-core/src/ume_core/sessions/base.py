"""A session's threads: some read items ahead, one computes. An engine says only how.

Items of one mode wait in a line, in the order in which they are due: when they came, bulk a little
later. Bulk thus lets queries pass, and what waits long enough passes them: nobody starves. The
computing thread takes turns: what is due of disc, as one pack, then one step of gen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from ume_core.embedder import Sampling, as_ume_error, require_mode
from ume_core.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InvalidItem,
    InvalidOption,
    UmeError,
)
from ume_core.forks import call_in_progress
from ume_core.items import ItemLike, as_item, with_instruction
from ume_core.session import LANES, Embedded, Lane, Load, OnToken
from ume_core.sessions.engine import Engine
from ume_core.sessions.jobs import (
    KINDS,
    How,
    Job,
    Kind,
    Line,
    P,
    Queue,
    Ticket,
    kind_of,
    reads_at_once,
    reads_slowly,
    tell,
)
from ume_core.signature import Mode

_AHEAD, _AHEAD_BYTES = 256, 256 * 1024 * 1024  # prepared items of a line; whichever comes first
_OTHERS = 256  # waiting jobs looked at to fill a pack


class BaseSession(Engine[P]):
    """Base of the sessions. `P` is an item as the engine wants it."""

    def __init__(
        self,
        name: str,
        modes: frozenset[Mode],
        bulk_later: float,
        model: str | Path | None = None,
    ) -> None:
        """Have threads, which start with the first item.

        Args:
            name: the engine's name.
            modes: the modes it has.
            bulk_later: seconds by which bulk lets queries that come after it go first.
            model: what the engine loaded, for messages.
        """
        self._model = model
        self._name, self._modes, self._bulk_later = name, modes, bulk_later
        # One lock; the thread that computes waits for the one, those that read for the other: to
        # wake them all for each item would cost more than most items take to read.
        lock = threading.RLock()
        self._changed, self._to_read = threading.Condition(lock), threading.Condition(lock)
        self._wakes = float("inf")  # when the thread that computes looks for deadlines next
        self._lines: dict[Kind, Line[P]] = {k: Line(_AHEAD, _AHEAD_BYTES) for k in KINDS}
        self._inflight: dict[Hashable, Job[P]] = {}
        self._running: dict[int, Job[P]] = {}
        self._dropped: list[Job[P]] = []
        self._timed: list[Ticket[P]] = []
        self._numbers, self._shared = count(), 0
        self._closed = False
        # One more than may read what takes long: texts and pictures do not wait for clips.
        self._slow, self._most_slow = 0, max(2, min(8, os.cpu_count() or 2))
        self._threads = [
            threading.Thread(target=self._read, name="ume-read", daemon=True)
            for _ in range(self._most_slow + 1)
        ]
        self._threads.append(threading.Thread(target=self._compute, name="ume-run", daemon=True))
        self._began, self._process = False, os.getpid()

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
        """See `ume_core.session.Session.submit`."""
        mode = require_mode(mode, self._modes, self._name, self._model)
        if sampling is not None and mode == "disc":
            raise InvalidOption("sampling was given in disc mode", fix="use mode='gen' or 'both'")
        if lane not in LANES:
            raise InvalidOption(f"unknown lane {lane!r}", fix="use 'query' or 'bulk'")
        if deadline is not None and not deadline > 0:
            raise InvalidOption(f"the deadline is {deadline!r}", fix="pass seconds from now")
        how = How(mode, self.budget(max_new_tokens) if mode != "disc" else 0, sampling)
        try:
            whole = with_instruction(as_item(item), instruction)
        except RecursionError:
            raise InvalidItem(
                "the item is nested too deeply", fix="put its parts into one list"
            ) from None
        if os.getpid() != self._process:
            raise EngineUnavailable(
                "this process was forked after the session was opened, and has not its threads",
                fix="open a session in each process",
            )
        now = time.monotonic()
        future: Future[Embedded] = Future()
        due = now + (self._bulk_later if lane == "bulk" else 0.0)
        job = Job[P](next(self._numbers), whole, how, scope, now, due, reads_slowly(whole))
        ticket = Ticket[P](future, job, None if deadline is None else now + deadline, on_token)
        job.tickets.append(ticket)
        # Here and now, where that is sooner done than handed to a thread.
        read = self._prepared(job) if lane == "query" and reads_at_once(whole) else None
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the session is closed", fix="open another one")
            if not self._began:
                self._began = True
                for thread in self._threads:
                    thread.start()
            if ticket.deadline is not None:
                self._timed.append(ticket)
                if ticket.deadline < self._wakes:
                    self._changed.notify()
            if read is None:
                self._line(job).unread_of(job).put(job)
                self._to_read.notify()
            else:
                self._was_read(job, read)
        future.add_done_callback(lambda done: self._left(ticket) if done.cancelled() else None)
        return future

    def load(self) -> Load:
        """See `ume_core.session.Session.load`."""
        with self._changed:
            running: dict[str, int] = {"disc": 0, "gen": 0}
            for job in self._running.values():
                running[kind_of(job)] += 1
            waiting: dict[str, int] = {kind: len(self._lines[kind]) for kind in KINDS}
            reading = sum(
                line.reading + len(line.unread) + len(line.slow) for line in self._lines.values()
            )
            return Load(waiting, running, reading, self._shared)

    def close(self, *, drain: bool = True) -> None:
        """See `ume_core.session.Session.close`."""
        with self._changed:
            self._closed = True
            if not drain:
                for job in self._all():
                    self._finish(job, EngineUnavailable("the session was closed", fix="ask again"))
            self._wake()
        if self._began and threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> BaseSession[P]:
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

    @property
    def gen_ready(self) -> bool:
        """Whether a gen job can start."""
        return len(self._lines["gen"].ready) > 0

    def take_gen(self) -> Job[P] | None:
        """The next gen job, which runs from now on; None if none is ready. For `step`."""
        with self._changed:
            line = self._lines["gen"]
            if not len(line.ready):
                return None
            job = self._take(line)
            self._room_to_read()
            return job

    def said(self, job: Job[P], sample: int, text: str) -> None:
        """Hand on new text of a job's sample. For `step` and `compute`."""
        with self._changed:
            job.texts[sample] = job.texts.get(sample, "") + text
            for ticket in job.tickets:
                tell(ticket, sample, text)

    def finish(self, job: Job[P], outcome: Embedded | UmeError) -> None:
        """A job is done. For `step`."""
        with self._changed:
            self._finish(job, outcome)

    def running_job(self, number: int) -> Job[P] | None:
        """A job that runs, by number."""
        return self._running.get(number)

    def fail_running(self, error: BaseException) -> None:
        """Fail what `step` computes: an error of the engine, not of an item."""
        with self._changed:
            for job in [j for j in self._running.values() if kind_of(j) in self.steps]:
                self._finish(job, _engine_error(error))

    # Threads that read.

    def _read(self) -> None:
        while True:
            with self._changed:
                job = self._next_unread()
                while job is None:
                    if self._closed and not any(len(line) for line in self._lines.values()):
                        return
                    self._to_read.wait()
                    job = self._next_unread()
            read = self._prepared(job)
            with self._changed:
                self._line(job).reading -= 1
                self._slow -= job.slow
                self._was_read(job, read)
                if job.slow or self._closed:
                    self._wake()

    def _prepared(self, job: Job[P]) -> tuple[P, int, Hashable] | UmeError:
        """A job's item as the engine wants it, its bytes and its key; or why there is none."""
        try:
            prepared = self.prepare(job.item, job.how, job.scope)
            return prepared, self.size(prepared), self.key(prepared, job.how)
        except Exception as caught:  # so that one bad item cannot take the others down
            return as_ume_error(caught)

    def _was_read(self, job: Job[P], read: tuple[P, int, Hashable] | UmeError) -> None:
        if isinstance(read, UmeError):
            self._finish(job, read)
            return
        prepared, size, key = read
        self._ready(job, prepared, size, None if key is None else (job.scope, key))
        self._changed.notify()

    def _next_unread(self) -> Job[P] | None:
        """The item that is due first, of the lines that may be read further ahead."""
        found: list[tuple[Line[P], Queue[P]]] = []
        for line in self._lines.values():
            if line.has_room:
                found.append((line, line.unread))
                if self._slow < self._most_slow:
                    found.append((line, line.slow))
        found = [(line, queue) for line, queue in found if len(queue)]
        if not found:
            return None
        line, queue = min(found, key=lambda one: one[1].due)
        job = queue.pop()
        line.reading += 1
        self._slow += job.slow
        return job

    def _ready(self, job: Job[P], prepared: P, size: int, key: Hashable) -> None:
        """A job can be computed, or shares what an equal one gets."""
        if job.done:
            return
        same = self._inflight.get(key) if key is not None else None
        if same is not None and not same.done:
            self._shared += len(job.tickets)
            for ticket in job.tickets:
                ticket.job = same
                same.tickets.append(ticket)
                for sample, text in same.texts.items():
                    tell(ticket, sample, text)
            job.tickets, job.done = [], True
            line = self._line(same)
            if job.due < same.due and same.began is None:  # a query hastens the bulk it equals
                line.ready.discard(same)
                same.due = job.due
                line.ready.put(same)
            return
        job.prepared, job.size, job.key = prepared, size, key
        if key is not None:
            self._inflight[key] = job
        line = self._line(job)
        line.held += size
        line.ready.put(job)

    # The thread that computes.

    def _compute(self) -> None:
        while True:
            with self._changed:
                self._expire()
                while not self._busy():
                    if self._closed and not any(len(line) for line in self._lines.values()):
                        self._wake()
                        self.end()
                        return
                    patience = self._patience()
                    self._wakes = float("inf") if patience is None else time.monotonic() + patience
                    self._changed.wait(patience)
                    self._expire()
                dropped, self._dropped = self._dropped, []
                groups = [self._group(kind) for kind in KINDS if kind not in self.steps]
                self._room_to_read()
            try:
                with call_in_progress():
                    self.check()
                    self.drop(dropped)
                    for group in groups:
                        self._run(group)
                    self.step()
            except Exception as error:
                for group in groups:
                    for job in group:
                        self.finish(job, _engine_error(error))
                self.fail_running(error)
                self.end()

    def _busy(self) -> bool:
        return bool(
            self._dropped or self._running or any(len(x.ready) for x in self._lines.values())
        )

    def _group(self, kind: Kind) -> list[Job[P]]:
        """What of a line is computed next, together."""
        line = self._lines[kind]
        if not len(line.ready):
            return []
        group = [self._take(line)]
        for job, _ in zip(list(line.ready), range(_OTHERS), strict=False):
            if self.fits(group, job):
                line.ready.discard(job)
                group.append(self._started(job, line))
        return group

    def _take(self, line: Line[P]) -> Job[P]:
        return self._started(line.ready.pop(), line)

    def _started(self, job: Job[P], line: Line[P]) -> Job[P]:
        line.held -= job.size
        job.began = time.monotonic()
        self._running[job.number] = job
        return job

    def _run(self, group: list[Job[P]]) -> None:
        """Compute a group; should it fail as a whole, each of its jobs alone."""
        if not group:
            return
        try:
            outcomes = self.compute(group)
        except Exception as error:
            if len(group) == 1:
                self.finish(group[0], _engine_error(error))
                return
            for job in group:
                self._run([job])
            return
        for job, outcome in zip(group, outcomes, strict=True):
            self.finish(job, outcome)

    def _finish(self, job: Job[P], outcome: Embedded | UmeError) -> None:
        if job.done:
            return
        self._forget(job)
        for ticket in job.tickets:
            self._settle(ticket, outcome)
        job.tickets = []

    def _forget(self, job: Job[P]) -> None:
        """Nobody waits for a job any more; what it holds is free, or will be at the next step."""
        job.done = True
        line = self._line(job)
        line.unread_of(job).discard(job)
        if job.began is None and job.prepared is not None:
            line.ready.discard(job)
            line.held -= job.size
        if job.key is not None and self._inflight.get(job.key) is job:
            del self._inflight[job.key]
        self._running.pop(job.number, None)
        if self._closed:
            self._wake()

    def _wake(self) -> None:
        """All threads: what is seldom may concern any of them."""
        self._changed.notify_all()
        self._to_read.notify_all()

    def _room_to_read(self) -> None:
        """More may be read ahead of the engine."""
        if any(len(line.unread) or len(line.slow) for line in self._lines.values()):
            self._to_read.notify_all()

    def _settle(self, ticket: Ticket[P], outcome: Embedded | UmeError) -> None:
        if ticket.deadline is not None:
            with suppress(ValueError):
                self._timed.remove(ticket)
        if not ticket.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, UmeError):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)

    def _left(self, ticket: Ticket[P]) -> None:
        """A caller does not wait any more."""
        with self._changed:
            if ticket.deadline is not None:
                with suppress(ValueError):
                    self._timed.remove(ticket)
            self._remove(ticket)
            self._wake()

    def _remove(self, ticket: Ticket[P]) -> None:
        job = ticket.job
        with suppress(ValueError):
            job.tickets.remove(ticket)
        if not job.tickets and not job.done:
            if job.began is not None and kind_of(job) in self.steps:
                self._dropped.append(job)
            self._forget(job)

    def _expire(self) -> None:
        now = time.monotonic()
        for ticket in [t for t in self._timed if t.deadline is not None and t.deadline <= now]:
            when = "before its turn came" if ticket.job.began is None else "while it was computed"
            self._remove(ticket)
            fix = "ask again with a later deadline"
            self._settle(ticket, DeadlineExceeded(f"the deadline passed {when}", fix=fix))

    def _patience(self) -> float | None:
        """Seconds until the next deadline."""
        ends = [t.deadline for t in self._timed if t.deadline is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _line(self, job: Job[P]) -> Line[P]:
        return self._lines[kind_of(job)]

    def _all(self) -> list[Job[P]]:
        waiting = [j for x in self._lines.values() for q in (x.unread, x.slow, x.ready) for j in q]
        return [*waiting, *self._running.values()]


def _engine_error(error: BaseException) -> UmeError:
    if isinstance(error, UmeError):
        return error
    made = EngineUnavailable(
        f"computing raised {type(error).__name__}: {error}",
        fix="ask again; if it comes again, embed the item alone: the traceback shows where",
    )
    made.__cause__ = error
    return made
