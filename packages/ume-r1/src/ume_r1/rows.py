"""Embedding many things in chunks, and the row that each becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ume_core.embedder import Embedder, Sampling
from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.limits import Limits
from ume_core.results import EmbeddingResult, Record, Vectors
from ume_core.signature import Mode
from ume_r1.inputs import Entry

# Items computed and written together: what an interruption can cost.
_CHUNK = {"disc": 64, "gen": 8, "both": 8}


@dataclass(frozen=True)
class Call:
    """How items are embedded.

    Attributes:
        load: loads the model; called when the first item that can be read is there.
        mode, instruction, max_new_tokens, sampling: see `ume_core.Embedder.embed`.
    """

    load: Callable[[], Embedder]
    mode: Mode
    instruction: str | None = None
    max_new_tokens: int | None = None
    sampling: Sampling | None = None

    @cached_property
    def model(self) -> Embedder:
        """The model."""
        return self.load()

    def embed(self, items: list[Item]) -> EmbeddingResult:
        """Embed them; what fails is recorded."""
        return self.model.embed(
            items,
            mode=self.mode,
            instruction=self.instruction,
            sampling=self.sampling,
            max_new_tokens=self.max_new_tokens,
            on_error="record",
        )


@dataclass
class Chunk:
    """Some entries, and what came of them.

    Attributes:
        mode: of the vectors.
        entries: what was to be embedded.
        records: one per entry.
        result: the vectors of those that could be read; None if none could.
        places: entry's place -> its place in the result.
    """

    mode: Mode
    entries: list[Entry]
    records: list[Record]
    result: EmbeddingResult | None = None
    places: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def failed(self) -> dict[str, Record]:
        """The records of failed entries, by id."""
        pairs = zip(self.entries, self.records, strict=True)
        return {entry.id: record for entry, record in pairs if record.status == "failed"}

    def row(self, index: int) -> dict[str, Any]:
        """One entry's row, of what JSON has; a failed one has no vectors."""
        record = self.records[index]
        row = described(self.entries[index], record)
        for name, vectors in vectors_of(self.result).items() if self.result else ():
            there = record.status != "failed"
            row[name] = vectors[self.places[index]].tolist() if there else None
        if self.result is None:
            row |= dict.fromkeys(("disc", "gen") if self.mode == "both" else (self.mode,))
        return row | {"signature": self.result.signature.digest if self.result else None}


def described(entry: Entry, record: Record) -> dict[str, Any]:
    """A row without its vectors."""
    return {
        "id": entry.id, "path": entry.path or None, "text": entry.text,
        "status": record.status, "reason": record.reason,
        "thinking": record.thinking, "summary": record.summary,
        "prompt_tokens": record.prompt_tokens, "generated_tokens": record.generated_tokens,
        "warnings": list(record.warnings),
    }  # fmt: skip


def vectors_of(result: EmbeddingResult) -> dict[str, Vectors]:
    """The columns of vectors: disc, gen (items, dim); gen_samples (items, samples, dim)."""
    found: dict[str, Vectors] = {}
    if result.disc is not None:
        found["disc"] = result.disc
    if result.gen_samples is not None:
        found["gen"] = result.gen_samples[:, 0]
        if result.gen_samples.shape[1] > 1:
            found["gen_samples"] = result.gen_samples
    return found


def chunks(call: Call, entries: list[Entry]) -> Iterator[Chunk]:
    """Embed entries, some at a time, in their order."""
    size, limits = _CHUNK[call.mode], Limits()
    for start in range(0, len(entries), size):
        part = entries[start : start + size]
        chunk = Chunk(call.mode, part, [Record("failed")] * len(part))
        items: list[Item] = []
        for index, entry in enumerate(part):
            try:
                items.append(entry.item(limits))
            except UmeError as error:
                chunk.records[index] = Record("failed", str(error))
            else:
                chunk.places[index] = len(items) - 1
        if items:
            chunk.result = call.embed(items)
            for index, place in chunk.places.items():
                chunk.records[index] = _named(chunk.result.records[place])
        yield chunk


def _named(record: Record) -> Record:
    """The record without the place in the batch: its entry's name stands before it."""
    if record.reason is None:
        return record
    return replace(record, reason=re.sub(r"^item \d+: ", "", record.reason))
