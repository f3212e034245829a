"""`ume index` and `ume search`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ume_core.errors import InvalidItem, InvalidOption, SignatureMismatch
from ume_core.items import Image, Item, Part, Text, Video
from ume_core.limits import Policy
from ume_core.signature import Mode
from ume_r1.commands.common import (
    load_from,
    mode_argument,
    model_arguments,
    printable,
    progress_bar,
)
from ume_r1.index import Index, build_index
from ume_r1.index.page import write_page
from ume_r1.index.store import OPTIONS, Description, check_target


def index_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume index`."""
    parser.add_argument("folder", type=Path, help="pictures, clips and texts to index")
    parser.add_argument("--to", type=Path, required=True, metavar="INDEX", help="index directory")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a file was skipped")
    mode_argument(parser)
    model_arguments(parser)


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
        what = "is a file, not a folder" if folder.exists() else "is no folder"
        raise InvalidOption(f"{args.folder} {what}", fix="name a folder with pictures or clips")
    check_target(args.to, str(folder), args.mode)  # before the model is loaded
    # Only the folder's own files: a picture list inside a file cannot lead the reader elsewhere.
    model = load_from(args, policy=Policy(roots=(folder,), urls=False))
    signature = model.signature(args.mode)
    options = {field: str(getattr(signature, field)) for field in OPTIONS}
    # The signature's "short-64" is the option "short"; no command changes its number of tokens.
    options["thinking"] = signature.thinking.partition("-")[0]
    name = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
    if signature.model == args.model:  # an alias or hub id, also where a directory has its name
        name = args.model
    store = Index.create(args.to, Description(str(folder), name, args.mode, signature, options))
    with progress_bar("indexing") as bar:
        task = bar.add_task("", total=None)
        try:
            report = build_index(
                store,
                folder,
                model,
                max_new_tokens=args.max_new_tokens,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            bar.stop()
            message = f"interrupted; {len(store)} items are in {args.to}"
            print(f"ume: {message}; the same command goes on from there", file=sys.stderr)
            return 130
    print(
        f"{len(store)} items in {args.to}: {report.embedded} embedded, "
        f"{report.unchanged} unchanged, {report.moved} moved, {report.removed} removed, "
        f"{len(report.skipped)} skipped"
    )
    for path, reason in sorted(report.skipped.items()):
        print(f"skipped {path}: {reason}", file=sys.stderr)
    return 1 if args.strict and report.skipped else 0


def search(args: argparse.Namespace) -> int:
    """Print the most similar items of an index."""
    if args.top < 1:
        raise InvalidOption(f"--top is {args.top}", fix="pass at least 1")
    if args.html is not None and not args.html.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.html.resolve().parent}", fix="create it first")
    query = _query(args)
    store = Index.open(args.index)
    mode = _query_mode(args.mode, store)
    for name, value in store.description.options.items():
        if getattr(args, name) in (None, "auto"):
            setattr(args, name, value)
    args.model = args.model or store.description.model
    model = load_from(args)
    store.require(model.signature(store.description.mode))
    result = model.embed(
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
        print(f"{hit.score:7.3f}  {printable(str(hit.path))}{summary}")
    if args.html is not None:
        write_page(args.html, query, record, hits, store, mode)
        print(f"page: {args.html.resolve()}")
    return 0


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
