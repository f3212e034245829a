"""Answers that decode together: prompts join while others run, and leave when they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ume_core.errors import LimitExceeded
from ume_qwen.render import RenderedPrompt
from ume_torch.decoder import Prefilled
from ume_torch.generate import DecodeBatch, Row
from ume_torch.kv import LayerKV
from ume_torch.memory import free_bytes, is_out_of_memory, release
from ume_torch.scheduler import Capacity, Entry, Scheduler

_KV_SHARE = 0.5  # of free memory, for the keys and values of running rows


@dataclass(frozen=True)
class Generated:
    """All samples of one prompt, done.

    Attributes:
        number: the caller's number of the prompt.
        disc: the state of `<disc_emb>`, (hidden,).
        rows: its finished samples, in order.
    """

    number: int
    disc: Tensor
    rows: list[Row] = field(default_factory=list[Row])


class Prefiller(Protocol):
    """What computes prompts.

    Attributes:
        device: the torch device.
        pack_tokens: most tokens of a pack.
    """

    device: str
    pack_tokens: int

    def prefill(
        self, prompts: Sequence[RenderedPrompt], asked: Sequence[Sequence[int]], *, keep: bool
    ) -> Prefilled:
        """One pack; see `Runner.prefill`."""
        ...

    def warn(self, message: str) -> None:
        """See `Runner.warn`."""
        ...


class Decoding:
    """The answers of one call, or of a session. For one thread."""

    def __init__(
        self, runner: Prefiller, scheduler: Scheduler, batch: DecodeBatch, *, alone: bool
    ) -> None:
        """Start with nothing running.

        Args:
            runner: what computes prompts.
            scheduler: which prompts start.
            batch: the rows that run.
            alone: one prompt at a time.
        """
        self._runner, self._scheduler, self._batch = runner, scheduler, batch
        self._alone = alone
        self._found: dict[int, Generated] = {}
        self._room = 0
        self._joined = False

    @property
    def rows(self) -> list[Row]:
        """The rows that run."""
        return self._batch.rows

    @property
    def finished(self) -> bool:
        """Whether nothing runs or waits, and nothing more will come."""
        return not self._batch.rows and self._scheduler.exhausted

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits; the source is not asked."""
        return not self._batch.rows and not self._scheduler.waiting

    def advance(
        self, on_step: Callable[[Sequence[Row]], None] | None = None
    ) -> list[Generated | tuple[int, LimitExceeded]]:
        """Let prompts join where there is room; if none did, feed every row one token.

        One of the two at a time: a session computes what is due of disc between them.

        Args:
            on_step: told the rows that were fed, each with its newest token.

        Returns:
            What is done, or cannot be done, by the caller's numbers.
        """
        if not self._batch.rows:
            self._room = int(free_bytes(self._runner.device) * _KV_SHARE)
        if not self._joined and self._scheduler.has_room(len(self._batch)):
            before = len(self._batch)
            done = self._start()
            # The next turn is a step's: prompts that keep coming stop no answer.
            self._joined = len(self._batch) > before
            if self._joined or done:
                return done
        self._joined = False
        return self._step(on_step) if len(self._batch) else []

    def cancel(self, number: int) -> None:
        """Forget a prompt; its rows are free at once."""
        self._scheduler.cancel(number)
        self._found.pop(number, None)
        with torch.inference_mode():
            self._batch.remove(number)

    def close(self) -> None:
        """No more steps come; what runs is forgotten."""
        self._batch.close()

    def _step(
        self, on_step: Callable[[Sequence[Row]], None] | None
    ) -> list[Generated | tuple[int, LimitExceeded]]:
        batch, scheduler = self._batch, self._scheduler
        fed = list(batch.rows)
        grown = batch.cache.bytes_for(len(batch), max(batch.cache.lengths) + 1)
        crowded = grown > self._room and len(batch) > 1
        left = None if crowded else self._advance()
        if left is None:
            # A step that failed midway leaves rows and cache half advanced: all start again.
            rows = batch.abandon()
            impossible = scheduler.step_failed([(r.prompt, r.sample) for r in rows])
            if impossible is not None:
                self._found.pop(rows[0].prompt, None)
                return [(rows[0].prompt, too_large(impossible))]
            self._runner.warn(f"out of memory while decoding: going on with {scheduler.rows} rows")
            return []
        if on_step is not None:
            on_step(fed)
        done = self._complete(left)
        if len(batch) == 0:
            scheduler.idle()
        return done

    def _complete(self, left: Sequence[Row]) -> list[Generated | tuple[int, LimitExceeded]]:
        """The prompts of which no row runs any more."""
        done: list[Generated | tuple[int, LimitExceeded]] = []
        for row in left:
            entry = self._found[row.prompt]
            entry.rows.append(row)
            if len(entry.rows) == self._scheduler.running[row.prompt].samples:
                entry.rows.sort(key=lambda r: r.sample)
                del self._found[row.prompt]
                self._scheduler.done(row.prompt)
                done.append(entry)
        return done

    def _advance(self) -> list[Row] | None:
        """One step of all rows; None where memory does not suffice for so many."""
        try:
            with torch.inference_mode():
                return self._batch.advance()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _start(self) -> list[Generated | tuple[int, LimitExceeded]]:
        """Prefill waiting prompts and let their rows join, as many as fit."""
        batch, scheduler = self._batch, self._scheduler
        capacity = Capacity(batch.cache.bytes_for, self._room, self._runner.pack_tokens)
        longest = max(batch.cache.lengths, default=0)
        taken = scheduler.admit(len(batch), longest, capacity, alone=self._alone)
        if not taken:
            return []
        try:
            asked = [(e.prompt.disc_index, len(e.prompt.ids) - 1) for e in taken]
            filled = self._runner.prefill([e.prompt for e in taken], asked, keep=True)
            self._join(taken, filled)
            scheduler.started()
            return []
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release(self._runner.device)
        impossible = scheduler.prefill_failed(taken, len(batch))
        if impossible is not None:
            self._found.pop(taken[0].number, None)
            return [(taken[0].number, too_large(impossible))]
        rows = sum(len(e.samples) for e in taken)
        self._runner.warn(f"out of memory with {rows} rows to start at once: going on with fewer")
        return []

    def _join(self, taken: list[Entry], filled: Prefilled) -> None:
        rows: list[Row] = []
        kv: list[LayerKV] = []
        for index, entry in enumerate(taken):
            disc, last = filled.states[2 * index], filled.states[2 * index + 1]
            self._found.setdefault(entry.number, Generated(entry.number, disc.clone()))
            following = int(entry.prompt.positions.max()) + 1
            asked = entry.asked
            for sample in entry.samples:
                rows.append(
                    Row(
                        entry.number, sample, following, last, asked.rules, asked.sampling,
                        forced_ids=list(asked.beginning),
                    )
                )  # fmt: skip
                kv.append(filled.rows[index])
        with torch.inference_mode():
            self._batch.add(rows, kv)


def too_large(prompt: RenderedPrompt) -> LimitExceeded:
    """Why a prompt cannot be computed."""
    return LimitExceeded(
        f"the item's {len(prompt.ids):,} tokens do not fit in memory even alone",
        fix="shorten it, lower max_pixels or max_new_tokens, or use a machine with more memory",
    )
