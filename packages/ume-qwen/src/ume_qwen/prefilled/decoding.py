"""Answers that run together: what each needs next goes to the engine, what comes back to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ume_core.embedder import Sampling
from ume_core.errors import UmeError
from ume_core.results import Record, Vectors
from ume_qwen.answers import AnswerText, sample
from ume_qwen.decoding import GenRequest, Output
from ume_qwen.embedder import unit
from ume_qwen.prefilled.protocol import (
    Answer,
    Answered,
    Generate,
    Generated,
    Need,
    Prefill,
    answer,
    until_end,
)
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_qwen.thinking import beginning, stop_rules


@dataclass(eq=False)
class Ticket:
    """One request that the engine was given.

    Attributes:
        ids: generated tokens so far.
        state: the state that was wanted, (dim,); see `Generated` for one of generated tokens.
        done: whether all has come.
        error: why it failed.
        warning: what its answer's record should say.
    """

    ids: list[int] = field(default_factory=list[int])
    state: Vectors | None = None
    done: bool = False
    error: UmeError | None = None
    warning: str | None = None


class Backend(Protocol):
    """The engine, as the protocol sees it. Thread-safe."""

    def submit(
        self, prompt: RenderedPrompt, need: Need, sampling: Sampling | None, seed: int, live: bool
    ) -> Ticket:
        """Hand a request over.

        Args:
            prompt: what `need.ids` follow.
            need: what is wanted.
            sampling: how tokens are chosen; None is greedy.
            seed: of this request's draws.
            live: whether tokens are wanted one by one, and not only all of them.
        """
        ...

    def advance(self, tickets: Sequence[Ticket]) -> None:
        """Compute on; returns when something has come for one of the tickets."""
        ...

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Forget requests."""
        ...


@dataclass(eq=False)
class _Row:
    """One answer on its way."""

    steps: Answer
    number: int
    need: Need
    ticket: Ticket
    text: AnswerText | None = None
    answered: Answered | None = None


@dataclass(eq=False)
class _Job:
    """One request and its answers."""

    request: GenRequest
    disc: Ticket
    rows: list[_Row] = field(default_factory=list[_Row])

    @property
    def warnings(self) -> list[str | None]:
        """Of the requests that gave states."""
        return [row.ticket.warning for row in self.rows]

    @property
    def tickets(self) -> list[Ticket]:
        waiting = [r.ticket for r in self.rows if r.answered is None]
        return [t for t in (self.disc, *waiting) if not t.done]


class PrefilledDecoding:
    """See `ume_qwen.decoding.Decoding`."""

    def __init__(
        self, requests: Iterator[GenRequest | None], backend: Backend, prepare: Preparer, rows: int
    ) -> None:
        """Start with nothing running.

        Args:
            requests: what is asked for; None says that there is nothing yet.
            backend: what computes.
            prepare: how the requests' prompts were made.
            rows: answers that run together.
        """
        self._requests, self._backend, self._prepare = requests, backend, prepare
        self._most = rows
        self._jobs: dict[int, _Job] = {}
        self._ended = False

    @property
    def running(self) -> int:
        """Answers that are being generated."""
        return sum(len(job.rows) for job in self._jobs.values())

    @property
    def finished(self) -> bool:
        """Whether all is done and nothing more will come."""
        if self.idle and not self._ended:
            self._take()
        return self.idle and self._ended

    @property
    def idle(self) -> bool:
        """Whether nothing runs here."""
        return not self._jobs

    def advance(self) -> list[tuple[int, Output | UmeError]]:
        """Start what there is room for, let the engine compute on; what is done, by number."""
        while not self._ended and self.running < self._most:
            if not self._take():
                break
        tickets = [t for job in self._jobs.values() for t in job.tickets]
        if tickets:
            self._backend.advance(tickets)
        done: list[tuple[int, Output | UmeError]] = []
        for number, job in list(self._jobs.items()):
            try:
                output = self._follow(job)
            except UmeError as error:  # this item's own
                output = error
            if output is not None:
                self._forget(job)
                done.append((number, output))
        return done

    def cancel(self, number: int) -> None:
        """Forget a request; its room is free at once."""
        job = self._jobs.get(number)
        if job is not None:
            self._forget(job)

    def close(self) -> None:
        """Forget everything."""
        for job in list(self._jobs.values()):
            self._forget(job)

    def _take(self) -> bool:
        """Start the source's next request, if there is one now."""
        request = next(self._requests, self._requests)
        if request is self._requests:
            self._ended = True
            return False
        if request is None:
            return False
        assert isinstance(request, GenRequest)
        prompt = request.prompt
        until_disc = prompt.until(prompt.disc_index + 1)
        job = _Job(request, self._backend.submit(until_disc, Prefill(()), None, 0, False))
        self._jobs[request.number] = job
        rules = stop_rules(self._prepare, request.budget)
        given = beginning(self._prepare, request.beginning)
        for number in range(request.sampling.n if request.sampling is not None else 1):
            steps = answer(rules, given)
            need = next(steps)
            text = AnswerText(self._prepare.tokenizer) if request.on_token is not None else None
            job.rows.append(_Row(steps, number, need, self._submit(job, need, number), text))
        return True

    def _submit(self, job: _Job, need: Need, number: int) -> Ticket:
        request = job.request
        seed = 0
        if request.sampling is not None and isinstance(need, Generate):
            # As ume-torch's seeds; a second part of an answer must not repeat the first's draws.
            seed = request.sampling.seed * 1_000_003 + number + (need.part << 60)
        live = request.on_token is not None
        return self._backend.submit(request.prompt, need, request.sampling, seed, live)

    def _follow(self, job: _Job) -> Output | None:
        """Give what has come to the answers; the output when all of them are done."""
        for row in job.rows:
            while row.answered is None and row.ticket.done:
                if row.ticket.error is not None:
                    raise row.ticket.error
                came = row.ticket.state
                if isinstance(row.need, Generate):
                    came = Generated(tuple(row.ticket.ids), row.ticket.state)
                try:
                    row.need = row.steps.send(came)
                except StopIteration as end:
                    row.answered = end.value
                else:
                    row.ticket = self._submit(job, row.need, row.number)
            self._tell(job, row)
        if job.disc.error is not None:
            raise job.disc.error
        if job.disc.state is None or any(r.answered is None for r in job.rows):
            return None
        return self._output(job)

    def _tell(self, job: _Job, row: _Row) -> None:
        """Hand on the answer's new text."""
        if row.text is None or job.request.on_token is None:
            return
        ids = list(row.need.ids if row.answered is None else row.answered.ids)
        if row.answered is None and isinstance(row.need, Generate):
            # The last token that a part may have can be taken back, the one that ends it is not
            # part of the answer's text.
            new = row.ticket.ids[: row.need.budget - 1]
            ids += until_end(new, self._prepare.tokenizer.special)[0]
        text = row.text.take(ids)
        if text:
            job.request.on_token(row.number, text)

    def _output(self, job: _Job) -> Output:
        answered = [row.answered for row in job.rows if row.answered is not None]
        tokenizer, prompt = self._prepare.tokenizer, job.request.prompt
        samples = tuple(sample(tokenizer, a.ids, a.given, a.forced) for a in answered)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        said = dict.fromkeys(w for w in job.warnings if w is not None)
        record = Record(
            "forced" if forced else "ok", forced, len(prompt.ids), samples,
            (*prompt.warnings, *said),
        )  # fmt: skip
        assert job.disc.state is not None
        disc, *gen = (
            unit(state[None])[0] for state in (job.disc.state, *(a.state for a in answered))
        )
        return Output(record, disc, gen)

    def _forget(self, job: _Job) -> None:
        self._backend.cancel(job.tickets)
        del self._jobs[job.request.number]
