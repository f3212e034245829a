"""A session for any engine: what waits of one kind becomes one call of `embed`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from numbers import Integral

import numpy as np

from ume_core.embedder import Embedder
from ume_core.errors import EngineUnavailable, InvalidOption, UmeError
from ume_core.items import Image, Item, Text
from ume_core.results import EmbeddingResult
from ume_core.session import Embedded
from ume_core.sessions.base import BaseSession
from ume_core.sessions.jobs import How, Job

_MOST_ITEMS = 32  # of one call: what comes meanwhile waits for its end


class PlainSession(BaseSession[Item]):
    """Calls `embed` with items that ask for the same. Gen's text comes when the answer is done."""

    def __init__(self, embedder: Embedder, bulk_later: float) -> None:
        super().__init__(embedder.name, embedder.modes, bulk_later)
        self._embedder = embedder

    def prepare(self, item: Item, how: How, scope: str) -> Item:
        """Nothing: the engine reads items itself."""
        del how, scope
        return item

    def size(self, prepared: Item) -> int:
        """Bytes of its media that are in memory."""
        sources = [part.source for part in prepared.media]
        return sum(len(s) if isinstance(s, bytes) else 0 for s in sources)

    def key(self, prepared: Item, how: How) -> Hashable:
        """By content, where all of it is text or bytes."""
        parts: list[Hashable] = []
        for part in prepared.parts:
            if isinstance(part, Text):
                parts.append(part.text)
            elif isinstance(part.source, bytes):
                options = {k: v for k, v in vars(part).items() if k != "source"}
                kind = "image" if isinstance(part, Image) else "video"
                parts.append((kind, part.source, tuple(options.items())))
            else:
                return None
        return how, prepared.instruction, tuple(parts)

    def budget(self, asked: int | None) -> int:
        """As asked; 0 leaves it to the engine."""
        value: object = 0 if asked is None else asked
        if not isinstance(value, Integral) or (asked is not None and asked < 1):
            raise InvalidOption(f"max_new_tokens is {asked!r}", fix="pass a whole number from 1")
        return int(value)

    def fits(self, group: Sequence[Job[Item]], more: Job[Item]) -> bool:
        """Whether it asks for the same."""
        return len(group) < _MOST_ITEMS and group[0].how == more.how

    def compute(self, group: Sequence[Job[Item]]) -> list[Embedded | UmeError]:
        """One call."""
        how = group[0].how
        result = self._embedder.embed(
            [job.item for job in group], mode=how.mode, sampling=how.sampling,
            max_new_tokens=how.budget or None, on_error="record",
        )  # fmt: skip
        outcomes: list[Embedded | UmeError] = []
        for index, job in enumerate(group):
            for number, sample in enumerate(result.records[index].samples):
                self.said(job, number, sample.text)
            outcomes.append(self._outcome(result, index, job))
        return outcomes

    def _outcome(self, result: EmbeddingResult, index: int, job: Job[Item]) -> Embedded | UmeError:
        record = result.records[index]
        if record.status == "failed":
            return self._failure(job, record.reason or "")
        waited = (job.began or job.submitted) - job.submitted
        disc = None if result.disc is None else np.array(result.disc[index])
        gen = None if result.gen_samples is None else np.array(result.gen_samples[index])
        return Embedded(record, result.signature, disc, gen, waited)

    def _failure(self, job: Job[Item], reason: str) -> UmeError:
        """A bad item's own error: a record has its words only."""
        how = job.how
        try:
            self._embedder.embed(
                [job.item], mode=how.mode, sampling=how.sampling, max_new_tokens=how.budget or None
            )
        except UmeError as error:
            error.item = None
            error.args = (str(error),)
            return error
        return EngineUnavailable(reason, fix="ask again")
