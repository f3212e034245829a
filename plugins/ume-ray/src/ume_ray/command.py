"""`ume index FOLDER|PARQUET|s3://… --to INDEX --ray [ADDRESS]`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import DataContext, Dataset

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.limits import Policy
from ume_r1 import output
from ume_r1.commands.common import options_from
from ume_r1.commands.index import update_with
from ume_r1.commands.progress import progress_bar
from ume_r1.index.folders import directory_at, folder_at, is_uri
from ume_r1.index.options import Asked
from ume_r1.index.store import Index, has_index
from ume_r1.output import printable
from ume_ray.arguments import ROLES
from ume_ray.cluster import Workers, connected, fit
from ume_ray.columns import Columns
from ume_ray.crew import Elsewhere, RayCrew
from ume_ray.datasets import DatasetReport, embed_dataset
from ume_ray.embedding import Job
from ume_ray.pipeline import Pace

_NAME = "name a Parquet file, or a folder of some"
_SHOWN = 20  # failed rows that are named


def run(args: argparse.Namespace, address: str) -> int:
    """Bring an index up to date on a cluster."""
    workers = Workers(args.workers, args.worker_cpus, args.worker_gpus)
    columns = Columns(*(getattr(args, f"{role}_column") for role in ROLES))
    table = args.folder.rstrip("/").endswith(".parquet") or columns != Columns()
    refused = [name for name in ("prune", "verify", "watch") if getattr(args, name)]
    if table and refused:
        raise InvalidOption(
            f"--{refused[0]} is for folders",
            fix="leave it out; to drop rows that a table has no more, add --rebuild",
        )
    if not table:
        folder_at(args.folder).check()
    with connected(address):
        DataContext.get_current().enable_progress_bars = False
        return _index_table(args, columns, workers) if table else _index_folder(args, workers)


def _index_folder(args: argparse.Namespace, workers: Workers) -> int:
    pool, pace = fit(workers), Pace()

    def crew_of(index: Index) -> RayCrew:
        about = index.description
        given = Asked(args.model, args.engine or "auto", options_from(args, new=False))
        asked = given.over(about.asked)
        # The workers read the files and hand over their bytes; what those name is not opened.
        closed = Asked(asked.model, asked.engine, asked.options | {"policy": Policy.closed()})
        job = Job(closed, about.mode, about.signature, args.max_new_tokens)
        return RayCrew(job, pool, pace)

    return update_with(
        args,
        folder_at(args.folder),
        crew_of,
        lambda asked: cast("Embedder", Elsewhere(asked, pool)),
        pace,
    )


def _index_table(args: argparse.Namespace, columns: Columns, workers: Workers) -> int:
    place = args.folder if is_uri(args.folder) else str(Path(args.folder).resolve())
    source = _read(place)
    with progress_bar("indexing") as bar:
        task = bar.add_task("", total=None)
        try:
            report = embed_dataset(
                source,
                args.to,
                columns=columns,
                model=args.model,
                engine=args.engine or "auto",
                mode=args.mode,
                max_new_tokens=args.max_new_tokens,
                workers=workers,
                rebuild=args.rebuild,
                location=place,
                progress=lambda done: bar.update(task, completed=done),
                **options_from(args, new=False),
            )
        except KeyboardInterrupt:
            bar.stop()
            items = _stored(args.to)
            output.complain(f"ume: interrupted; {items} items are in {args.to}")
            output.complain("ume: the same command goes on from there")
            return 130
    return _tell(report, _stored(args.to), args)


def _stored(directory: str) -> int:
    place = directory_at(directory)
    return len(Index.open(place)) if has_index(place) else 0


def _read(place: str) -> Dataset:
    """The rows of Parquet files; only the columns that are used are read later.

    Raises:
        InvalidOption: they cannot be read.
    """
    files: Any = None
    path = place
    if is_uri(place):
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        from ume_r1.index.remote import check_uri, filesystem

        found, path = filesystem(check_uri(place))
        files = PyFileSystem(FSSpecHandler(found))
    elif not Path(place).exists():
        raise InvalidOption(
            f"{place} does not exist", fix="name a Parquet file, or a folder of some"
        )
    try:
        return ray.data.read_parquet(path, filesystem=files, num_cpus=0.25)
    except UmeError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidOption(
            f"{place} cannot be read as Parquet: {reason}",
            fix=_NAME,
        ) from error


def _tell(report: DatasetReport, items: int, args: argparse.Namespace) -> int:
    """Print what a run did; the exit status."""
    if args.json:
        output.print_json({"index": str(args.to), "items": items, **asdict(report)})
    else:
        print(
            f"{items} items in {args.to}: {report.embedded} embedded, {report.unchanged} "
            f"unchanged, {report.copied} copied, {report.repeated} repeated, {report.failures} "
            "failed"
        )
    for name, reason in sorted(report.failed.items())[:_SHOWN]:
        output.tell(f"failed {printable(name) or 'row'}: {printable(reason)}")
    if report.failures > _SHOWN:
        output.tell(f"and {report.failures - _SHOWN} more rows failed; --json names them")
    output.tell(str(report.pace))
    return 1 if args.strict and report.failures else 0
