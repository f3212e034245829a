"""A Ray dataset, embedded into an index: every row by its id, every content once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from ray.data import Dataset

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption
from ume_core.fetch import Access
from ume_core.limits import Policy
from ume_core.signature import Mode
from ume_r1.commands.index import with_settings
from ume_r1.index.crew import Done
from ume_r1.index.description import Description, check_asked, read_description
from ume_r1.index.folders import TABLE, directory_at, is_table
from ume_r1.index.options import Asked
from ume_r1.index.rows import Row
from ume_r1.index.shelf import Shelf
from ume_r1.index.store import Index, check_target, has_index
from ume_r1.index.writer import Writer, writing
from ume_r1.settings import DEFAULT_MODEL
from ume_ray.cluster import Pool, Workers, cluster_errors, fit
from ume_ray.columns import Columns
from ume_ray.crew import Elsewhere
from ume_ray.embedding import Job
from ume_ray.pipeline import BLOCK, Pace, run
from ume_ray.reading import read_rows

_COPIES = 1024  # rows copied in one commit
_NAMED = 1000  # failed rows whose reasons are kept
_ROUNDS = 4  # over rows whose content another row had, and lost

Progress = Callable[[int], None]


@dataclass
class DatasetReport:
    """What a run did.

    Attributes:
        embedded: rows embedded.
        unchanged: rows that were stored as they are.
        copied: rows whose content was stored, or embedded in this run, under another id.
        repeated: rows that say again what another row of their id says.
        failures: rows that have no vector.
        failed: id -> why, of the first thousand of them.
        pace: how fast it went.
    """

    embedded: int = 0
    unchanged: int = 0
    copied: int = 0
    repeated: int = 0
    failures: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    pace: Pace = field(default_factory=Pace)


def embed_dataset(
    ds: Dataset,
    to: str | Path,
    *,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    model: str | None = None,
    engine: str = "auto",
    mode: Mode | None = None,
    max_new_tokens: int | None = None,
    policy: Policy | None = None,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    rebuild: bool = False,
    location: str = "dataset",
    progress: Progress = lambda done: None,
    **options: Any,
) -> DatasetReport:
    """Embed the rows of a dataset that an index does not hold, and store them by their ids.

    The workers of the cluster read what rows name, hash and embed; this process alone writes. What
    it committed stands, whoever is killed: the same call goes on from there. Rows that are in the
    index and not in the dataset stay.

    Args:
        ds: the dataset.
        to: the index directory, a path or a URI, made if it is not there.
        columns: which of its columns hold what.
        model: name, directory or hub id; None takes the index's own, else the default.
        engine: an engine's name, or `auto`.
        mode: `disc`, `gen` or `both`; None takes the index's own, else `disc`.
        max_new_tokens: budget of gen.
        policy: which files and URLs a `path` may name, wherever the worker is; None allows none
            unless there is such a column, and then what `Policy()` does.
        workers: the pool.
        rebuild: start the index anew.
        location: where the dataset is from, for whoever looks at the index.
        progress: called with the number of rows that came back.
        **options: fields of `ume_core.LoadOptions` and the engine's own options, by name.

    Raises:
        InvalidOption: a column is missing, the index is of a folder, or is being written.
        SignatureMismatch: the index holds other vectors.
        EngineUnavailable: the cluster fails, or its workers cannot load the model.
    """
    with cluster_errors():
        found = ds.schema()
        if found is None:
            raise InvalidOption("the dataset is empty", fix="check what it is read from")
        columns = columns.found_in(dict(zip(found.names, found.types, strict=True)))
        pool = fit(workers)
    asked = Asked(model, engine, options)
    index = _open(directory_at(to), asked, mode, f"{TABLE}{location}", pool, rebuild=rebuild)
    about = index.description
    asked = asked.over(about.asked)
    # The workers hand over bytes; what those name is not opened.
    closed = Asked(asked.model, asked.engine, asked.options | {"policy": Policy.closed()})
    job = Job(closed, about.mode, about.signature, max_new_tokens)
    if policy is None:
        policy = Policy() if columns.path else Policy.closed()
    access = Access(policy, asked.load_options().limits)
    source = ds.select_columns(columns.used).repartition(
        target_num_rows_per_block=BLOCK[about.mode]
    )
    with writing(index) as writer:
        return _Run(source, columns, access, job, pool, writer, progress).all()


def _open(
    to: Path, asked: Asked, mode: Mode | None, location: str, pool: Pool, *, rebuild: bool
) -> Index:
    """The index there, or a new one of vectors as a worker makes them."""
    check_target(to, rebuild=rebuild)
    if has_index(to) and not rebuild:
        index = Index(to, read_description(to))
        check_asked(to, index.description, asked, mode)
        if not is_table(index.description.folder):
            raise InvalidOption(
                f"{to} indexes the folder {index.description.folder}",
                fix="index the rows into a directory of their own",
            )
        return index
    if has_index(to) and asked.model is None:  # to be rebuilt, with its own model if known
        with suppress(InvalidOption):
            stored = read_description(to)
            asked, mode = asked.over(stored.asked), mode or stored.mode
    asked = with_settings(asked)
    name = asked.lasting_name(DEFAULT_MODEL)
    options = replace(asked.load_options(), policy=Policy.closed())
    whole = Asked(name, asked.engine, vars(options) | asked.engine_options())
    signature = Elsewhere(whole, pool).signature(mode or "disc")
    about = Description.of(
        cast("Embedder", _Known(signature)), Path(), mode or "disc",
        name=name, engine=asked.engine, options=options,
    )  # fmt: skip
    return Index.create(to, replace(about, folder=location), rebuild=rebuild)


@dataclass(frozen=True)
class _Known:
    """A model whose signature is known already."""

    found: Any

    def signature(self, mode: Mode) -> Any:
        assert self.found.mode == mode
        return self.found


class _Run:
    """One run over a dataset."""

    def __init__(
        self,
        source: Dataset,
        columns: Columns,
        access: Access,
        job: Job,
        pool: Pool,
        writer: Writer,
        progress: Progress,
    ) -> None:
        self.report = DatasetReport()
        self._source, self._job, self._pool = source, job, pool
        self._arguments = {"columns": columns, "access": access}
        self._writer, self._progress = writer, progress
        # Ids that this run has seen, with their contents: an id twice is one row.
        self._seen: Shelf[tuple[str, str]] = Shelf("kind", "digest")
        self._hopeless: dict[tuple[str, str], str] = {}

    def all(self) -> DatasetReport:
        """Embed and store everything."""
        again: Shelf[tuple[str, str]] | None = None
        for _ in range(_ROUNDS):
            waiting: Shelf[tuple[str, str]] = Shelf("kind", "digest")
            for done in run(
                self._source, read_rows, self._arguments, self._job, self._pool,
                self._writer.known.items(), lambda name: True, self.report.pace,
            ):  # fmt: skip
                self._take(done, waiting, again)
                self._progress(self.report.pace.items)
            again = self._share(waiting)
            if not again:
                break
        for name in again or ():
            self._fail(name, "its content changes while it is read")
        for name in self._writer.finish():
            self._fail(name, "its row was damaged and is removed; run again to embed it")
        return self.report

    def _take(
        self, done: Done, waiting: Shelf[tuple[str, str]], only: Shelf[tuple[str, str]] | None
    ) -> None:
        """Store what is done, and note what is to be copied; `only` these ids if given."""
        rows: list[Row] = [
            row
            for row in done.rows
            if (only is None or row.path in only) and self._first(row.path, row.kind, row.digest)
        ]
        self._writer.put(rows)
        self.report.embedded += len(rows)
        self._hopeless |= done.hopeless
        for same in done.unchanged:
            if only is None and self._first(same.name, same.kind, same.digest):
                self.report.unchanged += 1
        for same in done.same:
            wanted = only is None or same.name in only
            if wanted and self._first(same.name, same.kind, same.digest):
                waiting[same.name] = (same.kind, same.digest)
        for name, error in done.failed.items():
            if only is None or name in only:
                self._fail(name, error.reason)

    def _first(self, name: str, kind: str, digest: str) -> bool:
        """Whether this run meets the id for the first time; another content of it fails."""
        before = self._seen.get(name)
        if before is None:
            self._seen[name] = (kind, digest)
            return True
        if before == (kind, digest):
            self.report.repeated += 1
        else:
            self._fail(name, "another row of this id holds something else. Fix: make ids unique")
        return False

    def _share(self, waiting: Shelf[tuple[str, str]]) -> Shelf[tuple[str, str]]:
        """Copy rows for other ids of the same content; returns those that found none."""
        again: Shelf[tuple[str, str]] = Shelf("kind", "digest")
        names = iter(waiting.items())
        while some := dict(islice(names, _COPIES)):
            sources: dict[str, str] = {}
            for name, (kind, digest) in some.items():
                source = self._writer.known.find(kind=kind, digest=digest)
                if source is not None:
                    sources[name] = source
                elif (reason := self._hopeless.get((kind, digest))) is not None:
                    self._fail(name, reason)
                else:
                    again[name] = (kind, digest)
                    del self._seen[name]
            if sources:
                self._copy(sources, some)
        return again

    def _copy(self, sources: dict[str, str], contents: dict[str, tuple[str, str]]) -> None:
        rows = self._writer.fetch(sorted(set(sources.values())))
        kinds, digests = rows["kind"].to_pylist(), rows["digest"].to_pylist()
        held = {found: place for place, found in enumerate(zip(kinds, digests, strict=True))}
        places = pa.array([held[contents[name]] for name in sources])
        self._writer.copy(rows.take(places), list(sources))
        self.report.copied += len(sources)

    def _fail(self, name: str, reason: str) -> None:
        self.report.failures += 1
        if len(self.report.failed) < _NAMED:
            self.report.failed.setdefault(name, reason.removeprefix("item 0: "))
