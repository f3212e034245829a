"""The second step, in a pool of Ray actors with a model each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ume_core.embedder import Embedder
from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.results import Vectors
from ume_core.signature import Mode, Signature
from ume_r1.index.options import Asked
from ume_r1.index.rows import vector_columns
from ume_ray.blocks import FAILED, FATAL, done_schema, items_in

_DEATHS = 2  # of processes over one item alone, before it is given up
_BATCH = {"disc": 64, "gen": 8, "both": 8}  # items embedded in one call


@dataclass(frozen=True)
class Job:
    """What every worker does.

    Attributes:
        asked: the model, and how it is loaded.
        mode: of the vectors.
        signature: of the vectors.
        max_new_tokens: budget of gen.
    """

    asked: Asked
    mode: Mode
    signature: Signature
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class _Outcome:
    """What became of one item."""

    state: str
    reason: str = ""
    thinking: str = ""
    summary: str = ""
    disc: Vectors | None = None
    gen: Vectors | None = None


def here() -> str:
    """This worker's machine, for messages."""
    return ray.util.get_node_ip_address()


def why(error: Exception) -> str:
    """An error of a worker, as the driver tells it."""
    text = str(error) if isinstance(error, UmeError) else f"{type(error).__name__}: {error}"
    return f"a worker on {here()} cannot load the model: {text}"


@ray.remote
class Probe:
    """Loads a model to say what its vectors are."""

    def signature(self, asked: Asked, mode: Mode) -> tuple[dict[str, Any] | None, str]:
        """The signature of its vectors as plain values, or None and why it cannot be loaded."""
        try:
            return asked.load().signature(mode).to_dict(), ""
        except Exception as error:  # whatever an engine raises on this machine
            return None, why(error)


class Worker:
    """Embeds tables of items; Ray Data makes a pool of them."""

    def __init__(self, job: Job, ledger: Any) -> None:
        """Load the model. What keeps it from loading is told for the first table.

        An exception here would make Ray try again for minutes.

        Args:
            job: what to do.
            ledger: the actor that counts.
        """
        self._job, self._ledger = job, ledger
        self._embedder: Embedder | None = None
        self._refusal = ""
        try:
            self._embedder = job.asked.load()
            found = job.signature.differences(self._embedder.signature(job.mode))
            if found:
                self._refusal = f"{here()} has another model ({'; '.join(found)})"
        except Exception as error:  # whatever an engine raises on this machine
            self._refusal = why(error)
        if not self._refusal:
            ray.get(ledger.join.remote(here()))

    def __call__(self, batch: pa.Table) -> Any:
        """Embed what is to be embedded; yields tables of `done_schema`."""
        size = _BATCH[self._job.mode]
        for start in range(0, batch.num_rows, size):
            yield self._embed(batch.slice(start, size))

    def _embed(self, table: pa.Table) -> pa.Table:
        if not self._refusal:
            try:
                return self._answer(table, self._outcomes(table))
            except Exception as error:  # no item's fault: those have records
                self._refusal = f"a worker on {here()} failed: {type(error).__name__}: {error}"
        fatal = _Outcome(FATAL, self._refusal)
        return self._answer(table, dict.fromkeys(range(table.num_rows), fatal))

    def _outcomes(self, table: pa.Table) -> dict[int, _Outcome]:
        """Embed all items at once, or one at a time where a process died over them."""
        wanted = dict(items_in(table))
        if not wanted:
            return {}
        keys = {row: f"{table['kind'][row]}:{table['digest'][row]}" for row in wanted}
        whole = _work("\n".join(keys.values()))
        found: dict[int, _Outcome] = {}
        if self._begin(whole) == 1:
            outcomes = self._call(list(wanted.values()))
            found = dict(zip(wanted, outcomes, strict=True))
        else:
            for row, item in wanted.items():
                work = _work(keys[row])
                if self._begin(work) > _DEATHS:
                    reason = f"{_DEATHS} processes ended while they embedded it"
                    found[row] = _Outcome(FAILED, reason)
                else:
                    found[row] = self._call([item])[0]
                self._end(work)
        self._end(whole)
        return found

    def _call(self, items: list[Item]) -> list[_Outcome]:
        assert self._embedder is not None
        job = self._job
        result = self._embedder.embed(
            items, mode=job.mode, max_new_tokens=job.max_new_tokens, on_error="record"
        )
        return [
            _Outcome(
                record.status,
                record.reason or "",
                record.thinking,
                record.summary,
                None if result.disc is None else result.disc[place],
                None if result.gen is None else result.gen[place],
            )
            for place, record in enumerate(result.records)
        ]

    def _begin(self, work: bytes) -> int:
        return ray.get(self._ledger.begin.remote(work))

    def _end(self, work: bytes) -> None:
        self._ledger.end.remote(work)

    def _answer(self, table: pa.Table, outcomes: dict[int, _Outcome]) -> pa.Table:
        """The table, with what became of its items in place of their contents."""
        columns = {name: table[name].to_pylist() for name in table.column_names}
        count = table.num_rows
        columns |= {"thinking": [""] * count, "summary": [""] * count}
        for row, outcome in outcomes.items():
            columns["replaced"][row] = True
            for name in ("state", "reason", "thinking", "summary"):
                columns[name][row] = getattr(outcome, name)
        schema = done_schema(self._job.mode, self._job.signature.dimensions)
        for name in vector_columns(self._job.mode):
            vectors = [getattr(outcomes.get(row), name, None) for row in range(count)]
            columns[name] = _column(vectors, schema.field(name).type.list_size)
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _column(vectors: list[Vectors | None], length: int) -> pa.Array:
    """Vectors as a column, null where there is none."""
    values = np.zeros((len(vectors), length), np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None:
            values[row] = vector
    absent = pa.array([vector is None for vector in vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), length, mask=absent)


def _work(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
