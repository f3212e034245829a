"""`ume train filter`: pairs whose thinking helps, in a file of their own."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

from ume_core.errors import InvalidOption

_SECONDS = 15.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is judged, by which model, and where the rest goes."""
    parser.add_argument("file", type=Path, help="records of the published SFT form")
    parser.add_argument("--media", type=Path, help="directory that media paths are relative to")
    parser.add_argument("--model", required=True, help="checkpoint directory, name or hub id")
    parser.add_argument("--output", type=Path, required=True, help="file for the pairs that stay")
    parser.add_argument("--group", type=int, default=64, help="pairs told apart (default: 64)")
    parser.add_argument("--hard", type=int, default=8, help="negatives that count (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Judge all pairs, write those that stay and a report."""
    import torch

    from ume_torch.checkpoint import load_model
    from ume_train.config.sections import DataFile, DataSection, ModelSection
    from ume_train.data.source import FileSource, media_roots
    from ume_train.filtering import judge, summary
    from ume_train.forward import Policy
    from ume_train.logs import span
    from ume_train.models import find_start, has_bf16
    from ume_train.rendering import Renderings
    from ume_train.report import write_filter_report

    if args.group < 2 or args.hard < 1:
        raise InvalidOption("--group or --hard is too small", fix="give at least 2, and 1")
    output: Path = args.output
    if output.resolve() == args.file.resolve():
        raise InvalidOption("--output is the file that is read", fix="name another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    work = output.with_name(f"{output.name}.work")
    work.mkdir(exist_ok=True)
    data = DataSection(files=(DataFile(path=args.file, media=args.media),), order="shuffled")
    source = FileSource(data, size=1, seed=0, answers=True, work=work)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = find_start(args.model, work)
    render = Renderings(
        checkpoint, ModelSection(start=args.model), media_roots(data.files), data.max_tokens
    )
    model = load_model(checkpoint, str(device), "float32", "sdpa")
    policy = Policy(model, render.tokenizer.special.pad, bf16=has_bf16(device), even=False)
    stat = args.file.stat()
    about = [checkpoint.digest(), stat.st_size, stat.st_mtime_ns, args.group, args.hard]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    began, last, done = time.monotonic(), [0.0], [0]

    def progress(count: int) -> None:
        done[0] += count
        now = time.monotonic()
        if now - last[0] >= _SECONDS:
            last[0] = now
            left = (now - began) / done[0] * (len(source) - done[0])
            print(f"{done[0]:,} of {len(source):,} pairs, about {span(left)} left",
                  file=sys.stderr, flush=True)  # fmt: skip

    verdicts = judge(
        source, policy, render, work / f"verdicts-{key}.jsonl", group=args.group, hard=args.hard,
        progress=progress,
    )  # fmt: skip
    partial = output.with_name(f"{output.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write("[")
        for number, verdict in enumerate(v for v in verdicts if v.kept):
            handle.write(("," if number else "") + "\n" + source.text(verdict.row))
        handle.write("\n]\n")
    partial.replace(output)
    page = write_filter_report(output.with_suffix(".html"), summary(verdicts), verdicts)
    dropped = sum(not v.kept for v in verdicts)
    print(f"{dropped:,} of {len(verdicts):,} pairs are left out; see {page}", file=sys.stderr)
    print(output)
    return 0
