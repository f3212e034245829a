"""The files of a folder, embedded by a pool of workers for `ume_r1.index.build_index`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
import ray.data

from ume_core.errors import EngineUnavailable
from ume_core.fetch import Access
from ume_core.limits import Policy
from ume_core.signature import Mode, Signature
from ume_r1.index.crew import Done
from ume_r1.index.folders import Folder
from ume_r1.index.options import Asked
from ume_ray.cluster import Pool, cluster_errors
from ume_ray.embedding import Job, Probe
from ume_ray.pipeline import BLOCK, Pace, Stored, run
from ume_ray.reading import read_files


class RayCrew:
    """A `ume_r1.index.crew.Crew` on a connected cluster."""

    def __init__(self, job: Job, pool: Pool, pace: Pace) -> None:
        """Take what is to be done.

        Args:
            job: what every worker does.
            pool: the workers.
            pace: is kept up to date.
        """
        self._job, self._pool, self._pace = job, pool, pace

    def embed(
        self,
        folder: Folder,
        files: Iterable[tuple[str, str]],
        stored: Stored,
        lasting: Callable[[str], bool],
    ) -> Iterator[Done]:
        """See `ume_r1.index.crew.Crew.embed`."""
        with cluster_errors():
            # Names wait in Ray's object store, which spills, and not in this process.
            blocks: list[Any] = [ray.put(block) for block in _blocks(files, BLOCK[self._job.mode])]
        if not blocks:
            return
        limits = self._job.asked.load_options().limits
        arguments: dict[str, Any] = {
            "folder": folder.name, "access": Access(Policy.closed(), limits)
        }  # fmt: skip
        with cluster_errors():
            source = ray.data.from_arrow_refs(blocks)
        yield from run(
            source,
            read_files,
            arguments,
            self._job,
            self._pool,
            stored,
            lasting,
            self._pace,
            len(blocks),
        )


def _blocks(files: Iterable[tuple[str, str]], size: int) -> Iterator[pa.Table]:
    waiting = iter(files)
    while some := list(islice(waiting, size)):
        names, kinds = zip(*some, strict=True)
        yield pa.table({"name": list(names), "kind": list(kinds)})


class Elsewhere:
    """A model that workers can load: its signatures, without loading it in this process.

    An `Embedder` for whoever asks what its vectors are; it embeds nothing itself.
    """

    def __init__(self, asked: Asked, pool: Pool) -> None:
        """Name it.

        Args:
            asked: the model, and how it is loaded.
            pool: the workers that will load it.
        """
        self.name = asked.engine
        self._asked, self._pool = asked, pool

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode; a worker loads the model to say it.

        Raises:
            EngineUnavailable: the worker cannot.
        """
        with cluster_errors():
            probe: Any = Probe.options(num_cpus=self._pool.cpus, num_gpus=self._pool.gpus).remote()
            found, refusal = ray.get(probe.signature.remote(self._asked, mode))
            ray.kill(probe)
        if found is None:
            raise EngineUnavailable(
                refusal, fix="give every node the same packages, the same model and the same files"
            )
        return Signature.from_dict(found)
