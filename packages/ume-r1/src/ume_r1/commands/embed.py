"""`ume embed` and `ume explain`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ume_core.embedder import Sampling
from ume_core.errors import InvalidItem, InvalidOption, UmeError
from ume_core.items import Item, ItemLike, Text
from ume_core.limits import Limits
from ume_core.results import EmbeddingResult, Record, Vectors
from ume_r1.commands.common import (
    load_from,
    mode_argument,
    model_arguments,
    progress_bar,
)
from ume_r1.files import item_from_file
from ume_r1.output import json_line, valid_unicode

FORMATS = (".npz", ".jsonl", ".parquet")


def embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume embed`."""
    _inputs(parser)
    mode_argument(parser)
    parser.add_argument("--out", type=Path, help=".npz, .jsonl or .parquet (default: JSON lines)")
    parser.add_argument("--samples", type=int, default=None, help="gen: sample this many times")
    parser.add_argument("--temperature", type=float, default=1.0, help="of --samples")
    parser.add_argument("--seed", type=int, default=0, help="of --samples")
    model_arguments(parser)


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume explain`."""
    _inputs(parser)
    model_arguments(parser)


def _inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, help="pictures, clips, .txt or .md files")
    parser.add_argument("--text", action="append", default=[], help="a text; may be repeated")
    parser.add_argument("--instruction", default=None, help="task instruction before every item")


def embed(args: argparse.Namespace) -> int:
    """Embed everything named; 1 if an item failed, and the others are written all the same."""
    if args.out is not None and args.out.suffix not in FORMATS:
        raise InvalidOption(f"cannot write {args.out}", fix=f"end its name in {', '.join(FORMATS)}")
    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.out.resolve().parent}", fix="create it first")
    names, items, unread = _items(args)
    model = load_from(args)
    sampling = None
    if args.samples is not None:
        sampling = Sampling(n=args.samples, temperature=args.temperature, seed=args.seed)
    with progress_bar("embedding") as bar:
        task = bar.add_task("", total=len(items))
        result = model.embed(
            items,
            mode=args.mode,
            instruction=args.instruction,
            sampling=sampling,
            max_new_tokens=args.max_new_tokens,
            on_error="record",
            progress=lambda done, total: bar.update(task, completed=done),
        )
    result = _with_unread(result, unread)
    if args.out is None:
        for row in _rows(names, result):
            print(json_line(row, getattr(sys.stdout, "encoding", None)))
    else:
        write(args.out, names, result)
        print(f"wrote {len(result) - len(result.failed)} vectors to {args.out}", file=sys.stderr)
    return report_failures(names, result.records)


def explain(args: argparse.Namespace) -> int:
    """Print thinking and summary of everything named."""
    names, items, unread = _items(args)
    result = load_from(args).embed(
        items,
        mode="gen",
        instruction=args.instruction,
        max_new_tokens=args.max_new_tokens,
        on_error="record",
    )
    result = _with_unread(result, unread)
    for name, record in zip(names, result.records, strict=True):
        if record.status == "failed":
            continue
        print(f"{name}\n  thinking: {record.thinking or '-'}\n  summary:  {record.summary or '-'}")
        print(
            f"  tokens:   {record.generated_tokens} generated, {record.prompt_tokens} in the prompt"
        )
        if record.status == "forced":
            print(f"  forced:   {record.reason}")
    return report_failures(names, result.records)


def report_failures(names: list[str], records: tuple[Record, ...]) -> int:
    """List failed items, and what was noticed about others, on standard error; the exit status."""
    for name, record in zip(names, records, strict=True):
        for warning in record.warnings:
            print(f"ume: {name}: warning: {warning}", file=sys.stderr)
    failed = [(n, r) for n, r in zip(names, records, strict=True) if r.status == "failed"]
    for name, record in failed:
        print(f"ume: {name}: {record.reason}", file=sys.stderr)
    return 1 if failed else 0


def _items(args: argparse.Namespace) -> tuple[list[str], list[ItemLike], dict[int, Record]]:
    """Names of everything, the items that can be read, and records of those that cannot.

    Raises:
        UmeError: not one of them can be read; of the first.
    """
    if not args.files and not args.text:
        raise InvalidItem("nothing to embed", fix="name files or pass --text")
    limits = Limits()
    names = [str(f) for f in args.files] + [f"text {t[:40]!r}" for t in args.text]
    items: list[ItemLike] = []
    unread: dict[int, Record] = {}
    first: UmeError | None = None
    for index, path in enumerate(args.files):
        try:
            items.append(item_from_file(path, limits))
        except UmeError as error:
            first = first or error
            unread[index] = Record("failed", str(error.at(index)))
    items += [Item((Text(t),)) if t.strip() else t for t in args.text]
    if not items and first is not None:
        raise first
    return names, items, unread


def _with_unread(result: EmbeddingResult, unread: dict[int, Record]) -> EmbeddingResult:
    """The result with the failed items that the model was not asked for in their places."""
    if not unread:
        return result
    total = len(result) + len(unread)
    places = [i for i in range(total) if i not in unread]
    records = dict(zip(places, result.records, strict=True)) | unread

    def spread(vectors: Vectors | None) -> Vectors | None:
        if vectors is None:
            return None
        out = np.full((total, *vectors.shape[1:]), np.nan, dtype=np.float32)
        out[places] = vectors
        return out

    return replace(
        result, records=tuple(records[i] for i in range(total)), disc=spread(result.disc),
        gen_samples=spread(result.gen_samples),
    )  # fmt: skip


def write(path: Path, names: list[str], result: EmbeddingResult) -> None:
    """Write vectors, records and signature in the format of the file's suffix, in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".jsonl":
        lines = [json_line(row) for row in _rows(names, result)]
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = ("item", "reason")
        rows = [
            row | {key: valid_unicode(row[key]) for key in texts if row[key] is not None}
            for row in _rows(names, result)
        ]
        table = pa.Table.from_pylist(rows)
        # Where no item has a warning, Arrow cannot know what the lists are of.
        place, strings = table.column_names.index("warnings"), pa.list_(pa.string())
        table = table.set_column(place, "warnings", table["warnings"].cast(strings))
        signature = json.dumps(result.signature.to_dict())
        pq.write_table(table.replace_schema_metadata({"ume_signature": signature}), temporary)
    else:
        arrays: dict[str, Any] = {"items": np.array(names)}
        if result.disc is not None:
            arrays["disc"] = result.disc
        if result.gen_samples is not None:
            arrays["gen"] = result.gen_samples[:, 0]
            if result.gen_samples.shape[1] > 1:
                arrays["gen_samples"] = result.gen_samples
        records = [_record(r) for r in result.records]
        arrays["records"] = np.array([json.dumps(r, ensure_ascii=False) for r in records])
        arrays["signature"] = np.array(json.dumps(result.signature.to_dict()))
        with temporary.open("wb") as handle:
            np.savez(handle, **arrays)
    temporary.replace(path)


def _rows(names: list[str], result: EmbeddingResult) -> Iterator[dict[str, Any]]:
    for index, (name, record) in enumerate(zip(names, result.records, strict=True)):
        row: dict[str, Any] = {"item": name, **_record(record)}
        ok = record.status != "failed"
        if result.disc is not None:
            row["disc"] = result.disc[index].tolist() if ok else None
        if result.gen_samples is not None:
            row["gen"] = result.gen_samples[index, 0].tolist() if ok else None
            if result.gen_samples.shape[1] > 1:
                row["gen_samples"] = result.gen_samples[index].tolist() if ok else None
        yield row | {"signature": result.signature.digest}


def _record(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "reason": record.reason,
        "thinking": record.thinking,
        "summary": record.summary,
        "prompt_tokens": record.prompt_tokens,
        "generated_tokens": record.generated_tokens,
        "warnings": list(record.warnings),
    }
