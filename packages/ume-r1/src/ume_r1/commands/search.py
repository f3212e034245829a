"""`ume index` and `ume search`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ume_core.embedder import Embedder
from ume_core.errors import InvalidItem, InvalidOption, SignatureMismatch
from ume_core.items import Image, Item, Part, Text, Video
from ume_core.limits import Policy
from ume_core.signature import Mode
from ume_r1.commands.common import (
    mode_argument,
    model_arguments,
    options_from,
    printable,
    progress_bar,
)
from ume_r1.files import UNREAD_SUFFIXES
from ume_r1.index import BuildReport, Description, Hit, Index, build_index
from ume_r1.index.description import check_asked, read_description
from ume_r1.index.options import Asked
from ume_r1.index.page import write_page
from ume_r1.index.store import check_target, has_index, is_there
from ume_r1.loading import DEFAULT_MODEL


def index_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume index`."""
    parser.add_argument("folder", type=Path, help="pictures, clips and texts to index")
    parser.add_argument("--to", type=Path, required=True, metavar="INDEX", help="index directory")
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
    mode_argument(parser, default=None)
    model_arguments(parser, default=None)


def search_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume search`."""
    parser.add_argument("index", type=Path, help="index directory")
    parser.add_argument("words", nargs="?", help="what to look for")
    parser.add_argument("--image", type=Path, help="look for this picture; words may refine it")
    parser.add_argument("--video", type=Path, help="look for this clip; words may refine it")
    parser.add_argument("--instruction", default=None, help="task instruction before the query")
    parser.add_argument("--top", type=int, default=5, help="results to show (default: 5)")
    parser.add_argument(
        "--html", type=Path, metavar="PAGE", help="write a page with thumbnails too"
    )
    mode_argument(parser, default=None)
    model_arguments(parser, default=None)


def index(args: argparse.Namespace) -> int:
    """Bring an index up to date with a folder."""
    folder = args.folder.resolve()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InvalidOption(f"{args.folder} {what}", fix="name a folder with pictures or clips")
    store, model = _open_or_create(args, folder)
    with progress_bar("indexing") as bar:
        task = bar.add_task("", total=None)
        try:
            report = build_index(
                store,
                folder,
                model or (lambda: _load(store, args, policy=Policy.closed())),
                max_new_tokens=args.max_new_tokens,
                prune=args.prune,
                verify=args.verify,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            bar.stop()
            message = f"interrupted; {len(store)} items are in {args.to}"
            print(f"ume: {message}; the same command goes on from there", file=sys.stderr)
            return 130
    return _tell(report, len(store), args)


def search(args: argparse.Namespace) -> int:
    """Print the most similar items of an index; 1 if the file of one is gone."""
    if args.top < 1:
        raise InvalidOption(f"--top is {args.top}", fix="pass at least 1")
    if args.html is not None and not args.html.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.html.resolve().parent}", fix="create it first")
    query = _query(args)
    store = Index.open(args.index)
    mode = _query_mode(args.mode, store)
    result = _load(store, args).embed(
        [query], mode=mode, instruction=args.instruction, max_new_tokens=args.max_new_tokens
    )
    record = result.records[0]
    hits = store.search(result.vectors(mode)[0], mode, args.top)
    if mode == "gen":
        print(f"thinking: {record.thinking or '-'}\nsummary:  {record.summary or '-'}")
        if record.status == "forced":
            print(f"forced:   {record.reason}")
    for hit in hits:
        summary = f"  ({hit.summary})" if hit.summary and mode == "gen" else ""
        mark = "  [gone]" if hit.gone else ""
        print(f"{hit.score:7.3f}  {printable(str(hit.path))}{summary}{mark}")
    if args.html is not None:
        write_page(args.html, query, record, hits, store, mode)
        print(f"page: {args.html.resolve()}")
    return _tell_gone(hits, store)


def _open_or_create(args: argparse.Namespace, folder: Path) -> tuple[Index, Embedder | None]:
    """The index to update, and the model if it had to be loaded for that."""
    asked, mode = Asked(args.model, args.engine, options_from(args)), args.mode
    check_target(args.to)
    if has_index(args.to) and not args.rebuild:
        store = Index(args.to, read_description(args.to))
        check_asked(args.to, store.description, asked, mode)
        before = store.description.folder
        store.move_to(folder)
        if before != store.description.folder:
            print(f"{args.to} indexed {before}; from now on {folder}", file=sys.stderr)
        return store, None
    if has_index(args.to) and asked.model is None:  # to be rebuilt, with its own model if known
        with suppress(InvalidOption):
            stored = read_description(args.to)
            asked, mode = asked.over(stored.asked), mode or stored.mode
    name = asked.lasting_name(DEFAULT_MODEL)
    # The index reads the files and hands over their bytes; what those name is not opened.
    options = replace(asked.load_options(), policy=Policy.closed())
    model = Asked(name, asked.engine, vars(options) | asked.engine_options()).load()
    description = Description.of(
        model, folder, mode or "disc", name=name, engine=asked.engine, options=options
    )
    return Index.create(args.to, description, rebuild=args.rebuild), model


def _load(store: Index, args: argparse.Namespace, policy: Policy | None = None) -> Embedder:
    options = options_from(args) | ({} if policy is None else {"policy": policy})
    return store.load_model(args.model, engine=args.engine, **options)


def _tell(report: BuildReport, items: int, args: argparse.Namespace) -> int:
    """Print what a run did; the exit status."""
    print(
        f"{items} items in {args.to}: {report.embedded} embedded, "
        f"{report.unchanged} unchanged, {report.moved} moved, {report.removed} removed, "
        f"{len(report.skipped)} skipped"
    )
    said = [f"damaged {name}: what could not be read is embedded again" for name in report.damaged]
    said += [f"repaired {printable(path)}: its row was damaged" for path in report.repaired]
    said += [f"skipped {printable(p)}: {reason}" for p, reason in sorted(report.skipped.items())]
    for reason, count in sorted(Counter(report.kept.values()).items()):
        said.append(f"kept {_count(count, 'item')}, {printable(reason)}")
    other = Counter({s: n for s, n in report.unread.items() if s not in UNREAD_SUFFIXES})
    for suffix in sorted(set(report.unread) - set(other)):
        count = _count(report.unread[suffix], f"{suffix} file")
        said.append(f"left out {count}. Fix: {UNREAD_SUFFIXES[suffix]}")
    if other:
        kinds = ", ".join(f"{printable(suffix)}: {n}" for suffix, n in other.most_common(5))
        said.append(f"left out {_count(other.total(), 'file')} of other kinds ({kinds})")
    for line in said:
        print(line, file=sys.stderr)
    incomplete = report.skipped or report.kept or len(other) < len(report.unread)
    return 1 if args.strict and incomplete else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tell_gone(hits: list[Hit], store: Index) -> int:
    """Say which results are not there any more; the exit status."""
    gone = sum(hit.gone for hit in hits)
    if not gone:
        return 0
    if is_there(store.folder):
        fix = store.update_command()
    else:
        fix = f"ume index NEWFOLDER --to {store.directory}, if {store.folder} was moved"
    print(f"ume: {gone} of {len(hits)} files are gone. Fix: {fix}", file=sys.stderr)
    return 1


def _query(args: argparse.Namespace) -> Item:
    parts: list[Part] = []
    if args.image is not None:
        parts.append(Image(args.image))
    if args.video is not None:
        parts.append(Video(args.video))
    if args.words is not None:
        parts.append(Text(args.words))
    if not parts:
        raise InvalidItem("nothing to look for", fix="pass words, --image or --video")
    return Item(tuple(parts))


def _query_mode(asked: Mode | None, store: Index) -> Mode:
    """The vectors to compare: the index's own, or one of its two."""
    held = store.description.mode
    if asked is None:
        return "disc" if held == "both" else held
    if asked == "both" or (held not in ("both", asked)):
        raise SignatureMismatch(
            f"{store.directory} holds {held} vectors, the query asks for {asked}",
            fix=f"search with --mode {'disc or gen' if held == 'both' else held}, "
            f"or index again with --mode {asked} into a new directory",
        )
    return asked
