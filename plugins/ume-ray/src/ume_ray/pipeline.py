"""The flow: blocks of items are read by tasks, embedded by the pool, and come to the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from ume_core.errors import EngineUnavailable
from ume_r1.index.crew import Done
from ume_ray.blocks import FATAL, from_table
from ume_ray.cluster import Pool, cluster_errors
from ume_ray.embedding import Job, Worker
from ume_ray.ledger import Ledger, content_key, row_key, sorted_keys

# Items of one task, which is what a killed worker does again: seconds of work in each mode.
BLOCK = {"disc": 128, "gen": 16, "both": 16}
# Rows of one commit, or the seconds after which there is one: what a killed driver does again.
_ROWS, _FIRST, _LAST = 1024, 1.0, 10.0

Stored = Iterable[tuple[str, tuple[str, str]]]  # name, (kind, digest)


@dataclass
class Pace:
    """How fast a run went.

    Attributes:
        items: items that came back, whatever became of them.
        seconds: from the first task to the last answer; what went before is in no rate.
        workers: workers that were wanted.
        nodes: machines they ran on.
        replaced: workers that died and were replaced.
    """

    items: int = 0
    seconds: float = 0.0
    workers: int = 0
    nodes: int = 0
    replaced: int = 0

    def __str__(self) -> str:
        rate = self.items / self.seconds if self.seconds else 0.0
        dead = ""
        if self.replaced:
            whose = "was replaced after its process"
            if self.replaced > 1:
                whose = "were replaced after their processes"
            dead = f"; {self.replaced} {whose} ended"
        return (
            f"{self.items:,} items in {self.seconds:,.1f} s, {rate:,.1f} a second, by "
            f"{_counted(self.workers, 'worker')} on {_counted(self.nodes, 'node')}{dead}"
        )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def run(
    source: Dataset,
    read: Callable[..., Any],
    arguments: dict[str, Any],
    job: Job,
    pool: Pool,
    stored: Stored,
    lasting: Callable[[str], bool],
    pace: Pace,
    blocks: int | None = None,
) -> Iterator[Done]:
    """Embed what is not stored.

    Args:
        source: blocks of what `read` takes.
        read: `reading.read_files` or `read_rows`.
        arguments: of it, beside the ledger and the signature.
        job: what the workers do.
        pool: the workers.
        stored: every row of the index.
        lasting: see `ume_r1.index.crew.Crew`.
        pace: is kept up to date.
        blocks: of the source, if that is known.

    Yields:
        What came back since the last time, in any order.

    Raises:
        EngineUnavailable: the cluster fails, or its workers cannot embed.
    """
    signature = job.signature.digest
    rows, contents = bytearray(), bytearray()
    for name, (kind, digest) in stored:
        rows += row_key(name, kind, digest, signature)
        if lasting(name):
            contents += content_key(kind, digest, signature)
    with cluster_errors():
        # The two references live as long as the run, for a ledger that has to start again.
        known = ray.put(sorted_keys(rows)), ray.put(sorted_keys(contents))
        del rows, contents
        ledger: Any = (
            ray.remote(Ledger)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(*known)
        )
        pace.workers = pool.most
        began = time.monotonic()
        before = pace.seconds
        arguments = arguments | {"ledger": ledger, "signature": signature}
        flow = _flow(source, read, arguments, job, pool, blocks)
        try:
            done, told = Done(), time.monotonic()
            for table in flow:
                _take(table, done)
                pace.items += table.num_rows
                pace.seconds = before + time.monotonic() - began
                now = time.monotonic()
                wait = min(_LAST, _FIRST + (now - began) / 10)
                if len(done.rows) >= _ROWS or now - told > wait:
                    yield done
                    done, told = Done(), time.monotonic()
            yield done
            joined: Any = ray.get(ledger.joined.remote())
            pace.nodes = max(pace.nodes, len(joined))
            pace.replaced += max(0, sum(joined.values()) - pool.most)
        finally:
            flow.close()
            ray.kill(ledger)


def _flow(
    source: Dataset,
    read: Callable[..., Any],
    arguments: dict[str, Any],
    job: Job,
    pool: Pool,
    blocks: int | None,
) -> Generator[pa.Table]:
    flow = source.map_batches(
        read,
        fn_kwargs=arguments,
        batch_size=None,
        batch_format="pyarrow",
        # Reading waits for disks and networks; the workers have the CPUs.
        num_cpus=0,
        compute=TaskPoolStrategy(size=min(2 * pool.most, blocks or 2 * pool.most)),
    ).map_batches(
        Worker,
        fn_constructor_kwargs={"job": job, "ledger": arguments["ledger"]},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        compute=ActorPoolStrategy(min_size=pool.least, max_size=pool.most, initial_size=pool.least),
    )
    for table in flow.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        assert isinstance(table, pa.Table)  # as `batch_format` says
        yield table


def _take(table: pa.Table, done: Done) -> None:
    states = table["state"].to_pylist()
    if FATAL in states:
        raise EngineUnavailable(
            table["reason"][states.index(FATAL)].as_py(),
            fix="give every node the same packages, the same model and the same files",
        )
    from_table(table, done)
