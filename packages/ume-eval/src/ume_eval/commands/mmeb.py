"""`ume eval mmeb`: score a model on MMEB-V2, or on the miniature with `--demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidOption
from ume_eval.commands.model import encoder_options, load_model, model_arguments
from ume_eval.commands.progress import Bar
from ume_eval.data import Annotations
from ume_eval.demo import build_demo
from ume_eval.metrics import TIES
from ume_eval.report import write_report
from ume_eval.run import (
    SIDES,
    Encoder,
    RunOptions,
    Workers,
    preflight,
    require_ready,
    run_tasks,
    start_workers,
)
from ume_eval.tasks import DEFAULT_PROTOCOL, PROTOCOLS, Task, choose, tasks_of
from ume_eval.tasks.configurations import read_configurations


def arguments(parser: argparse.ArgumentParser) -> None:
    """Data, model, protocol, modes and output."""
    parser.add_argument("--data", type=Path, help="directory with MMEB-V2's media and annotations")
    parser.add_argument("--demo", action="store_true", help="draw a miniature and score that")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="YAML",
        help="roots and frames from a file of VLM2Vec, PLUME or Qwen3-VL-Embedding; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", default=DEFAULT_PROTOCOL, choices=PROTOCOLS,
        help="v2.0: paper tables; v2.1: leaderboard (default)",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK",
        help="names, meta-tasks (V-MR) or modalities (default: all 78)",
    )  # fmt: skip
    parser.add_argument("--query-mode", default="disc", choices=SIDES)
    parser.add_argument("--target-mode", default="disc", choices=SIDES)
    parser.add_argument("--ties", default="expected", choices=TIES, help="how ties are ranked")
    parser.add_argument("--output", type=Path, default=Path("mmeb-results"), help="directory")
    parser.add_argument(
        "--allow-partial", action="store_true",
        help="accept other row counts than the protocol's; scores are marked",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="only say what is missing")
    model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check, embed, score, report. Exit status 1 if items failed."""
    if args.demo:
        args.data = args.data or args.output / "demo-data"
        args.model = args.model or "ume-nano"
        args.allow_partial = True
        args.max_new_tokens = args.max_new_tokens or 64
    if args.data is None or (args.model is None and not args.check):
        missing = "--data" if args.data is None else "--model"
        raise InvalidOption(f"{missing} is missing", fix=f"give {missing}, or try --demo")
    workers = start_workers()
    try:
        return _run(args, workers)
    finally:
        workers.close()


def _run(args: argparse.Namespace, workers: Workers) -> int:
    table = tasks_of(args.protocol)
    if args.demo and workers.first:
        build_demo(args.data, args.protocol)
    workers.wait()
    tasks = _tasks(args, table, quiet=not workers.first)
    cache = args.data / ".arrow" if args.demo else None
    annotations = Annotations(args.data, cache)
    if workers.first:
        with Bar("checking", len(tasks)) as bar:
            checks = preflight(
                tasks, annotations, allow_partial=args.allow_partial,
                progress=lambda *_: bar.advance(1),
            )  # fmt: skip
        require_ready(checks)
        total = sum(c.entries for c in checks)
        print(f"{len(tasks)} tasks are ready: {total:,} queries and candidates", file=sys.stderr)
    else:
        total = 0
    if args.check:
        return 0
    workers.wait()
    records = _score(args, workers, tasks, table, annotations, total)
    if not workers.first:
        return 0
    print(write_report(args.output, table))
    failed = sum(r["status"][side]["failed"] for r in records.values() for side in r["status"])
    if failed:
        print(f"{failed} items failed; see `status` in the score files", file=sys.stderr)
    return 1 if failed else 0


def _score(
    args: argparse.Namespace,
    workers: Workers,
    tasks: list[Task],
    table: list[Task],
    annotations: Annotations,
    total: int,
) -> dict[str, dict[str, Any]]:
    embedder, convention = load_model(args, workers)
    if args.query_mode != args.target_mode and not embedder.signature("disc").aligned:
        print("warning: disc and gen are not declared comparable for this model", file=sys.stderr)
    encoder = Encoder(
        embedder, args.output / "vectors", workers=workers, options=encoder_options(args)
    )
    options = RunOptions(args.protocol, args.query_mode, args.target_mode, args.ties, convention)
    with Bar("embedding", total, shown=workers.first) as bar:
        return run_tasks(
            tasks, annotations, encoder, args.output, options, expected=table,
            started=lambda task: bar.title(task.name), advance=bar.advance,
        )  # fmt: skip


def _tasks(args: argparse.Namespace, table: list[Task], *, quiet: bool) -> list[Task]:
    """The tasks of the command line: of the miniature, of configuration files, or the table."""
    tasks = table
    if args.demo:
        from ume_eval.demo import DEMO_TASKS

        tasks = [t for t in table if t.name in DEMO_TASKS]
    if args.config:
        tasks, skipped = read_configurations(args.config, tasks)
        if skipped and not quiet:
            print(f"not scored in MMEB-V2, left out: {', '.join(skipped)}", file=sys.stderr)
    return choose(tasks, args.tasks)
