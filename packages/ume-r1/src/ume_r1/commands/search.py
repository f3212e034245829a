"""`ume search`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from ume_core.errors import InvalidItem, InvalidOption, SignatureMismatch
from ume_core.fetch import Access
from ume_core.items import Image, Item, Part, Text, Video
from ume_core.media import open_image
from ume_core.pdf import is_pdf
from ume_core.retrieval import KINDS as KINDS_OF_POLICY
from ume_core.retrieval import SearchPolicy
from ume_core.signature import Mode
from ume_r1 import output
from ume_r1.arguments import Parser
from ume_r1.commands.common import (
    check_file,
    json_argument,
    mode_argument,
    model_arguments,
    options_from,
)
from ume_r1.index.dates import check_date
from ume_r1.index.finding import Answer, find, find_like
from ume_r1.index.folders import is_uri
from ume_r1.index.store import Hit, Index, is_there
from ume_r1.output import printable

KINDS = ("image", "video", "text")
UNIQUE = 0.97


def arguments(parser: Parser) -> None:
    """Arguments of `ume search`."""
    parser.examples(
        "ume search my-index a red apple",
        "ume search my-index --image dog.png 'the same in the snow'",
        "ume search my-index --image 'paper.pdf#page=3' --top 3",
        "ume search my-index a dog --kind image --under holidays --min-score 0.3",
        "ume search my-index a dog --since 2025-06 --until 2025-08 --unique",
        "ume search my-index --like holidays/dog.png",
        "ume search my-index a dog --top 20 -0 | xargs -0 cp -t found/",
        "ume search my-index a dog --json | jq '.hits[].path'",
        "ume search my-index a dog --html page.html",
    )
    parser.add_argument("index", help="index directory, or s3://BUCKET/INDEX")
    parser.add_argument(
        "words", nargs="*", default=[], help="what to look for; quotes are not needed"
    )
    parser.add_argument(
        "--image", type=Path, help="look for this picture, or page of a PDF; words may refine it"
    )
    parser.add_argument("--video", type=Path, help="look for this clip; words may refine it")
    parser.add_argument(
        "--like", metavar="FILE", help="more like this file of the index; loads no model"
    )
    parser.add_argument("--instruction", help="task instruction before the query")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="results (default: 5)")
    parser.add_argument(
        "--min-score", type=float, metavar="COSINE", help="leave out results below this"
    )
    parser.add_argument("--kind", choices=KINDS, help="only files of this kind")
    parser.add_argument(
        "--under", metavar="FOLDER", help="only files in this folder inside the indexed one"
    )
    parser.add_argument(
        "--since", metavar="DATE",
        help="only files of this date or later, as 2026, 2026-05 or 2026-05-31: when a picture was "
        "taken, else when the file was changed",
    )  # fmt: skip
    parser.add_argument("--until", metavar="DATE", help="only files of this date or earlier")
    parser.add_argument(
        "--unique", type=float, nargs="?", const=UNIQUE, metavar="COSINE",
        help=f"hide results this near to a better one (default: {UNIQUE})",
    )  # fmt: skip
    parser.add_argument(
        "--exact", action="store_true", help="compare every vector of a large index"
    )
    parser.add_argument(
        "--html", type=Path, metavar="PAGE", help="write a page with thumbnails too"
    )
    shown = parser.add_mutually_exclusive_group()
    json_argument(shown)
    shown.add_argument(
        "-0", "--null", action="store_true", help="print files' paths only, each ended by a NUL"
    )
    mode_argument(parser, default=None)
    parser.add_argument(
        "--policy", choices=KINDS_OF_POLICY,
        help="for an index of both vectors: fused adds cosines; routed thinks where disc is unsure",
    )  # fmt: skip
    parser.add_argument(
        "--weight", type=float, default=0.5, metavar="W", help="of gen in fused (default: 0.5)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="MARGIN",
        help="routed: think where the best two disc scores are this close (`ume eval scaling`)",
    )  # fmt: skip
    model_arguments(parser, of_index=True)


def run(args: argparse.Namespace) -> int:
    """Print the most similar items of an index; 1 if the file of one is gone."""
    if args.top < 1:
        raise InvalidOption(f"--top is {args.top}", fix="pass at least 1")
    if args.html is not None and not args.html.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.html.resolve().parent}", fix="create it first")
    query = _query(args)
    store = Index.open(args.index)
    policy = _policy(args, store)
    wanted: dict[str, Any] = {
        "kind": args.kind,
        "under": _inside(args.under, store, "--under") if args.under is not None else "",
        "since": check_date(args.since, "--since"),
        "until": check_date(args.until, "--until"),
        "min_score": args.min_score,
        "unique": args.unique,
    }
    if query is None:
        like = _inside(args.like, store, "--like")
        answer = find_like(store, like, policy, args.top, exact=args.exact, **wanted)
    else:
        options = options_from(args, new=False)
        model = store.load_model(args.model, engine=args.engine or "auto", **options)
        answer = find(
            store, model, query, policy, args.top,
            instruction=args.instruction, exact=args.exact, **wanted,
        )  # fmt: skip
    _show(answer, args)
    if args.html is not None:
        from ume_r1.index.page import write_page

        shown = query or Item((Text(f"like {args.like}"),))
        write_page(args.html, shown, answer.record, answer.hits, store, answer.mode)
        output.tell(f"page: {args.html.resolve()}")
    return _tell_gone(answer.hits, store)


def _show(answer: Answer, args: argparse.Namespace) -> None:
    hits, record, mode = answer.hits, answer.record, answer.mode
    if args.json:
        said = {"thinking": record.thinking, "summary": record.summary, "status": record.status}
        like = {} if args.like is None else {"like": args.like}
        found = [_hit(hit) for hit in hits]
        output.print_json({"query": {"mode": mode, **said, **like}, "hits": found})
        return
    if args.null:
        for path in dict.fromkeys(hit.path for hit in hits):  # a PDF once, whatever its pages
            _print_bytes(path)
        return
    if mode != "disc" and args.like is None:
        print(f"thinking: {record.thinking or '-'}\nsummary:  {record.summary or '-'}")
        if record.status == "forced":
            print(f"forced:   {record.reason}")
    for hit in hits:
        summary = f"  ({hit.summary})" if hit.summary and mode != "disc" else ""
        mark = "  [gone]" if hit.gone else ""
        mark += f"  [and {len(hit.duplicates)} like it]" if hit.duplicates else ""
        print(f"{hit.score:7.3f}  {printable(hit.place)}{summary}{mark}")
    if not hits:
        output.tell("ume: nothing in the index fits")


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "score": hit.score, "path": str(hit.path), "page": hit.page, "name": hit.name,
        "kind": hit.kind, "date": hit.date, "gone": hit.gone, "thinking": hit.thinking,
        "summary": hit.summary, "duplicates": list(hit.duplicates),
    }  # fmt: skip


def _print_bytes(path: Path | str) -> None:
    """The path's own bytes, whatever encoding the terminal has, and a NUL."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(path) + b"\0")


def _inside(named: str, store: Index, option: str) -> str:
    """A file or folder in the indexed folder, as rows name it.

    Raises:
        InvalidOption: it is not in it.
    """
    root = store.folder
    path = Path(named)
    if isinstance(root, str) and named.startswith(f"{root}/"):
        path = Path(named[len(root) + 1 :])
    elif path.is_absolute() or is_uri(named):
        if isinstance(root, str) or not path.is_relative_to(root):
            raise InvalidOption(f"{option} {named} is not in {root}", fix="name something in it")
        path = path.relative_to(root)
    if ".." in path.parts:
        raise InvalidOption(f"{option} {named} leads out", fix=f"name something in {root}")
    inside = PurePosixPath(path).as_posix()
    return "" if inside == "." else inside


def _tell_gone(hits: list[Hit], store: Index) -> int:
    """Say which results are not there any more; the exit status."""
    gone = sum(hit.gone for hit in hits)
    if not gone:
        return 0
    if isinstance(store.folder, Path) and is_there(store.folder):
        fix = store.update_command()
    else:
        fix = f"ume index NEWFOLDER --to {store.directory}, if {store.folder} was moved"
    output.complain(f"ume: {gone} of {len(hits)} files are gone. Fix: {fix}")
    return 1


def _query(args: argparse.Namespace) -> Item | None:
    """What to look for; None for more like an indexed file."""
    if args.like is not None:
        if args.words or args.image or args.video or args.instruction:
            raise InvalidOption(
                "--like compares stored vectors, and takes no words, picture or clip beside it",
                fix="leave them out, or pass the file by --image",
            )
        return None
    parts: list[Part] = []
    for path in (args.image, args.video):
        if path is not None:
            check_file(path)
            if is_pdf(str(path)):  # one page of it is named, and can be drawn
                open_image(Image(path), Access())
    if args.image is not None:
        parts.append(Image(args.image))
    if args.video is not None:
        parts.append(Video(args.video))
    if args.words:
        parts.append(Text(" ".join(args.words)))
    if not parts:
        raise InvalidItem("nothing to look for", fix="pass words, --image, --video or --like")
    return Item(tuple(parts))


def _policy(args: argparse.Namespace, store: Index) -> SearchPolicy:
    """What decides: one kind of the index's vectors, or both.

    Raises:
        InvalidOption: the arguments contradict each other.
    """
    if args.policy in ("fused", "routed"):
        if args.mode is not None:
            raise InvalidOption(
                f"--mode {args.mode} and --policy {args.policy} exclude each other",
                fix="leave one out",
            )
        if args.policy == "routed" and args.threshold is None:
            raise InvalidOption(
                "--policy routed needs --threshold",
                fix="take that of the share you can pay for from the report of `ume eval scaling`",
            )
        return SearchPolicy(
            args.policy, args.weight, args.threshold or 0.0, max_new_tokens=args.max_new_tokens
        )
    if None not in (args.mode, args.policy) and args.mode != args.policy:
        raise InvalidOption(
            f"--mode {args.mode} and --policy {args.policy} exclude each other", fix="leave one out"
        )
    kind = _query_mode(args.mode or args.policy, store)
    return SearchPolicy("gen" if kind == "gen" else "disc", max_new_tokens=args.max_new_tokens)


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
