"""`ume embed` and `ume explain`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ume_core.embedder import Sampling
from ume_core.errors import InvalidOption
from ume_core.results import Record
from ume_r1 import output
from ume_r1.arguments import Parser
from ume_r1.commands.common import (
    json_argument,
    load_from,
    mode_argument,
    model_arguments,
)
from ume_r1.files import counted
from ume_r1.inputs import ID_FROM, Entry, gather
from ume_r1.rows import Call, Chunk, chunks

_FORMATS = (".npz", ".jsonl", ".parquet")


def embed_arguments(parser: Parser) -> None:
    """Arguments of `ume embed`."""
    parser.examples(
        "ume embed photos --out photos.parquet",
        "ume embed dog.png clip.mp4 --text 'a dog' --mode both --out vectors.npz",
        "ume embed - < sentences.txt > vectors.jsonl",
        "find . -name '*.png' -print0 | ume embed -0 --id-from stem --out vectors.parquet",
        "duckdb -c \"select id, disc from 'photos.parquet'\"",
    )
    _inputs(parser)
    mode_argument(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help=".npz, .jsonl or .parquet; an interrupted run goes on (default: JSON lines)",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, metavar="N", help="gen: sample this many times")
    parser.add_argument("--temperature", type=float, default=1.0, help="of --samples (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of --samples (default: 0)")
    model_arguments(parser)


def explain_arguments(parser: Parser) -> None:
    """Arguments of `ume explain`."""
    parser.examples(
        "ume explain dog.png", "ume explain --text 'a red apple'", "ume explain photos --json"
    )
    _inputs(parser)
    json_argument(parser)
    model_arguments(parser)


def _inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", default=[],
        help="pictures, clips, .txt and .md files; folders; patterns; - for the lines of standard "
        "input, each a text",
    )  # fmt: skip
    parser.add_argument("--text", action="append", default=[], help="a text; may be repeated")
    parser.add_argument(
        "-0", "--null", action="store_true",
        help="standard input holds paths that end in NUL, as find -print0 writes them",
    )  # fmt: skip
    parser.add_argument(
        "--id-from", choices=sorted(ID_FROM), default="path",
        help="what a file's row is called; a text's is a hash of it (default: path)",
    )  # fmt: skip
    parser.add_argument("--instruction", help="task instruction before every item")


def embed(args: argparse.Namespace) -> int:
    """Embed everything named; 1 if an item failed, and the others are written all the same."""
    if args.out is not None and args.out.suffix not in _FORMATS:
        raise InvalidOption(
            f"cannot write {args.out}", fix=f"end its name in {', '.join(_FORMATS)}"
        )
    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.out.resolve().parent}", fix="create it first")
    entries = gather(args.files, args.text, null=args.null, id_from=args.id_from)
    sampling = None
    if args.samples is not None:
        sampling = Sampling(n=args.samples, temperature=args.temperature, seed=args.seed)
    call = Call(lambda: load_from(args), args.mode, args.instruction, args.max_new_tokens, sampling)
    if args.out is not None:
        return _to_file(call, entries, args)
    failed = 0
    for chunk in chunks(call, entries):
        for index in range(len(chunk.entries)):
            output.print_json(chunk.row(index))
        failed += report(chunk)
    return 1 if failed else 0


def explain(args: argparse.Namespace) -> int:
    """Print thinking and summary of everything named."""
    entries = gather(args.files, args.text, null=args.null, id_from=args.id_from)
    call = Call(lambda: load_from(args), "gen", args.instruction, args.max_new_tokens)
    failed = 0
    for chunk in chunks(call, entries):
        for index, (entry, record) in enumerate(zip(chunk.entries, chunk.records, strict=True)):
            if args.json:
                row = chunk.row(index)
                output.print_json({name: row[name] for name in row if name != "gen"})
            elif record.status != "failed":
                _explain(entry, record)
        failed += report(chunk)
    return 1 if failed else 0


def _explain(entry: Entry, record: Record) -> None:
    print(f"{entry.shown}\n  thinking: {record.thinking or '-'}")
    print(f"  summary:  {record.summary or '-'}")
    print(f"  tokens:   {record.generated_tokens} generated, {record.prompt_tokens} in the prompt")
    if record.status == "forced":
        print(f"  forced:   {record.reason}")


def report(chunk: Chunk) -> int:
    """Tell of failed items, and what was noticed about others; returns how many failed."""
    failed = 0
    for entry, record in zip(chunk.entries, chunk.records, strict=True):
        for warning in record.warnings:
            output.tell(f"ume: {entry.shown}: warning: {warning}")
        if record.status == "failed":
            output.complain(f"ume: {entry.shown}: {record.reason}")
            failed += 1
    return failed


def _to_file(call: Call, entries: list[Entry], args: argparse.Namespace) -> int:
    from ume_r1.commands.progress import progress_bar
    from ume_r1.vectors import VectorFile

    file = VectorFile(args.out, _run(args))
    left = [entry for entry in entries if not file.has(entry)]
    if len(left) < len(entries):
        output.tell(f"{len(entries) - len(left)} of {counted(len(entries), 'item')} were done")
    failed: dict[str, Record] = {}
    try:
        with progress_bar("embedding") as bar:
            task = bar.add_task("", total=len(entries), completed=len(entries) - len(left))
            for chunk in chunks(call, left):
                file.put(chunk)
                report(chunk)
                failed |= chunk.failed
                bar.advance(task, len(chunk.entries))
        if len(failed) == len(entries):
            return 1
        file.finish(entries, failed)
    except KeyboardInterrupt:
        output.complain(
            f"ume: interrupted; what is done is in {file.part}, and the same command goes on"
        )
        return 130
    finally:
        file.close()
    output.tell(f"wrote {counted(len(entries) - len(failed), 'vector')} to {args.out}")
    return 1 if failed else 0


def _run(args: argparse.Namespace) -> dict[str, Any]:
    names = ("mode", "instruction", "samples", "max_new_tokens", "id_from")
    run = {name: getattr(args, name) for name in names}
    return run if args.samples is None else run | {"t": args.temperature, "seed": args.seed}
