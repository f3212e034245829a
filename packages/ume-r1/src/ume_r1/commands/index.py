"""`ume index`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from ume_core.embedder import Embedder
from ume_core.errors import EngineUnavailable, InvalidOption, UmeError
from ume_core.hookspecs import resolve
from ume_core.limits import Policy
from ume_core.plugins import registry
from ume_r1 import output
from ume_r1.arguments import Parser
from ume_r1.commands.common import (
    json_argument,
    mode_argument,
    model_arguments,
    options_from,
)
from ume_r1.commands.progress import progress_bar
from ume_r1.files import counted, left_out
from ume_r1.index.batches import Source
from ume_r1.index.build import build_index
from ume_r1.index.crew import Crew
from ume_r1.index.description import Description, check_asked, read_description
from ume_r1.index.folders import Folder, LocalFolder, directory_at, folder_at
from ume_r1.index.options import Asked
from ume_r1.index.report import BuildReport
from ume_r1.index.store import Index, check_target, has_index
from ume_r1.output import printable
from ume_r1.settings import DEFAULT_MODEL, setting
from ume_r1.watching import SETTLE_SECONDS, Watch, check_watch


def arguments(parser: Parser) -> None:
    """Arguments of `ume index`."""
    parser.examples(
        "ume index photos --to my-index          # again later: adds what is new",
        "ume index photos --to my-index --mode both --model ume-r1-2b",
        "ume index /mnt/photos --to my-index     # the folder has another name now",
        "ume index s3://bucket/photos --to my-index",
        "ume index photos --to my-index --watch  # until Ctrl-C",
    )
    parser.add_argument(
        "folder", help="pictures, clips and texts to index: a folder, or s3://BUCKET/FOLDER"
    )
    parser.add_argument(
        "--to", required=True, metavar="INDEX", help="index directory, or s3://BUCKET/INDEX"
    )
    parser.add_argument(
        "--watch", action="store_true", help="go on, and run again whenever the folder changed"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if a file was skipped or left out"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove deleted files also if they are most of the index, or their folder is empty",
    )
    parser.add_argument(
        "--verify", action="store_true", help="check every stored byte, and repair what is damaged"
    )
    parser.add_argument("--rebuild", action="store_true", help="start the index anew")
    json_argument(parser)
    mode_argument(parser, default=None)
    model_arguments(parser, of_index=True)
    _cluster_arguments(parser)


def _cluster_arguments(parser: Parser) -> None:
    """What plugins add that share the work among machines, and how to get the one named here."""
    group = parser.add_argument_group("more machines")
    for spec in registry().clusters.values():
        group.add_argument(
            f"--{spec.name}", nargs="?", const="", metavar="ADDRESS", help=spec.description
        )
        resolve(spec.arguments)(group)
    if "ray" not in registry().clusters:
        group.add_argument(
            "--ray", nargs="?", const="", metavar="ADDRESS", help="needs the plugin ume-ray"
        )


def run(args: argparse.Namespace) -> int:
    """Bring an index up to date with a folder, here or on a cluster."""
    for spec in registry().clusters.values():
        address = getattr(args, spec.name)
        if address is not None:
            try:
                start = resolve(spec.run)
            except ImportError as error:  # the plugin is there, but not its libraries
                raise EngineUnavailable(
                    f"--{spec.name} cannot be used: {error}", fix=spec.install
                ) from error
            return int(start(args, address))
    if getattr(args, "ray", None) is not None:
        raise EngineUnavailable(
            f"--ray needs the plugin ume-ray, which is not installed{registry().broken_note()}",
            fix="from a clone: pip install plugins/ume-ray",
        )
    if args.folder.rstrip("/").endswith(".parquet") and not Path(args.folder).is_dir():
        raise InvalidOption(
            f"{args.folder} is a table, not a folder",
            fix="add --ray (the plugin ume-ray), whose workers read its rows",
        )
    args.to = directory_at(args.to)
    folder = folder_at(args.folder)
    folder.check()
    if args.watch:
        _check_watch(args, folder)
    store, model = _open_or_create(args, folder)
    # Loaded when it is first needed, and once, however often the folder changes.
    load = cache(lambda: model or _load(store, args))
    try:
        if not (isinstance(folder, LocalFolder) and args.watch):
            report = _update(store, folder, load if model is None else model, args)
            return _tell(report, len(store), args)
        watch = Watch(folder.path, store.directory.resolve())
        output.tell(f"watching {folder.name}; Ctrl-C ends it")
        for _ in watch:
            try:
                report = _update(store, folder, load, args, settle=SETTLE_SECONDS)
            except UmeError as error:  # a folder that is away, another run: the next time
                output.complain(f"ume: {error}")
                continue
            watch.note(report.unsettled)
            if report != BuildReport(unchanged=report.unchanged, unread=report.unread):
                _tell(report, len(store), args)
    except KeyboardInterrupt:
        store.reopen()  # to what the run committed
        if args.watch:
            output.tell(f"ume: stopped; {len(store)} items are in {args.to}")
            return 0
        return _interrupted(store, args)
    return 0


def _interrupted(store: Index, args: argparse.Namespace) -> int:
    message = f"interrupted; {len(store)} items are in {args.to}"
    output.complain(f"ume: {message}; the same command goes on from there")
    return 130


def update_with(
    args: argparse.Namespace,
    folder: Folder,
    crew_of: Callable[[Index], Crew],
    load: Callable[[Asked], Embedder],
    pace: object,
) -> int:
    """Bring an index up to date with a folder by a crew, and say what was done.

    Args:
        args: of `ume index`.
        folder: the folder.
        crew_of: who embeds for an index in place of this process.
        load: gives the model whose signature a new index gets.
        pace: says how fast the crew was, when it is done.

    Returns:
        the exit status.
    """
    if args.watch:
        raise InvalidOption("a folder is watched without a cluster", fix="leave out --watch")
    args.to = directory_at(args.to)
    store, _ = _open_or_create(args, folder, load)
    try:
        report = _update(store, folder, lambda: _load(store, args), args, crew=crew_of(store))
    except KeyboardInterrupt:
        store.reopen()  # to what the run committed
        return _interrupted(store, args)
    status = _tell(report, len(store), args)
    output.tell(str(pace))
    return status


def _check_watch(args: argparse.Namespace, folder: Folder) -> None:
    """Refuse what cannot be watched.

    Raises:
        InvalidOption: an object store tells nobody of changes, or an option has no end to report.
        EngineUnavailable: the library that watches is not installed.
    """
    if not isinstance(folder, LocalFolder):
        raise InvalidOption(
            f"{folder.name} cannot be watched", fix="run the command again from time to time"
        )
    if args.strict:
        raise InvalidOption("--watch and --strict exclude each other", fix="leave one out")
    check_watch()


def _update(
    store: Index,
    folder: Folder,
    model: Source,
    args: argparse.Namespace,
    *,
    settle: float = 0,
    crew: Crew | None = None,
) -> BuildReport:
    with progress_bar("indexing") as bar:
        task = bar.add_task("", total=None)
        return build_index(
            store,
            folder,
            model,
            max_new_tokens=args.max_new_tokens,
            prune=args.prune,
            verify=args.verify,
            settle=settle,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            crew=crew,
        )


def _open_or_create(
    args: argparse.Namespace, folder: Folder, load: Callable[[Asked], Embedder] = Asked.load
) -> tuple[Index, Embedder | None]:
    """The index to update, and the model if it had to be loaded for that."""
    asked = Asked(args.model, args.engine or "auto", options_from(args, new=False))
    mode = args.mode
    check_target(args.to, rebuild=args.rebuild)
    if has_index(args.to) and not args.rebuild:
        store = Index(args.to, read_description(args.to))
        check_asked(args.to, store.description, asked, mode)
        before = store.description.folder
        store.move_to(folder)
        if before != store.description.folder:
            output.tell(f"{args.to} indexed {before}; from now on {folder.name}")
        return store, None
    if has_index(args.to) and asked.model is None:  # to be rebuilt, with its own model if known
        with suppress(InvalidOption):
            stored = read_description(args.to)
            asked, mode = asked.over(stored.asked), mode or stored.mode
    asked = with_settings(asked)
    name = asked.lasting_name(DEFAULT_MODEL)
    # The index reads the files and hands over their bytes; what those name is not opened.
    options = replace(asked.load_options(), policy=Policy.closed())
    model = load(Asked(name, asked.engine, vars(options) | asked.engine_options()))
    description = Description.of(
        model, folder, mode or "disc", name=name, engine=asked.engine, options=options
    )
    return Index.create(args.to, description, rebuild=args.rebuild), model


def with_settings(asked: Asked) -> Asked:
    """The request, with what the environment or the settings say where it leaves things open."""
    usual = {} if setting("dtype") is None else {"dtype": setting("dtype")}
    engine = setting("engine") or "auto" if asked.engine == "auto" else asked.engine
    return Asked(asked.model or setting("model"), engine, usual | asked.options)


def _load(store: Index, args: argparse.Namespace) -> Embedder:
    policy = Policy.closed()  # the index reads the files and hands over their bytes
    options = options_from(args, new=False)
    return store.load_model(args.model, engine=args.engine or "auto", policy=policy, **options)


def _tell(report: BuildReport, items: int, args: argparse.Namespace) -> int:
    """Print what a run did; the exit status."""
    if args.json:
        counts = {k: v for k, v in asdict(report).items() if k != "unread"}
        output.print_json(
            {"index": str(args.to), "items": items, **counts, "unread": dict(report.unread)}
        )
    else:
        print(
            f"{items} items in {args.to}: {report.embedded} embedded, "
            f"{report.unchanged} unchanged, {report.moved} moved, {report.removed} removed, "
            f"{len(report.skipped)} skipped"
        )
    said = [
        f"approximate search of {column} vectors: recall@10 is {share:.3f} of exact search's"
        for column, share in report.recall.items()
    ]
    said += [f"damaged {name}: what could not be read is embedded again" for name in report.damaged]
    said += [f"repaired {printable(path)}: its row was damaged" for path in report.repaired]
    said += [f"skipped {printable(p)}: {reason}" for p, reason in sorted(report.skipped.items())]
    for reason, count in sorted(Counter(report.kept.values()).items()):
        said.append(f"kept {counted(count, 'item')}, {printable(reason)}")
    lines, known = left_out(report.unread)
    said += lines
    for line in said:
        output.tell(line)
    incomplete = report.skipped or report.kept or known
    return 1 if args.strict and incomplete else 0
