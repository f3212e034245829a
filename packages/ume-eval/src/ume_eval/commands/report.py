"""`ume eval report`: reports of runs that were scored before."""

from __future__ import annotations

import argparse
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_eval.report import leaderboard, write_comparison, write_report
from ume_eval.run import read_scores
from ume_eval.run.store import write_json
from ume_eval.tasks import tasks_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """One run, another one to compare it with, the leaderboard's file."""
    parser.add_argument("run", type=Path, help="output directory of `ume eval mmeb`")
    parser.add_argument("--against", type=Path, metavar="RUN", help="compare with another run")
    parser.add_argument("--leaderboard", type=Path, metavar="FILE", help="write its JSON")
    parser.add_argument(
        "--metadata", nargs="*", default=[], metavar="NAME=VALUE",
        help="for the leaderboard: model_name, model_size, url, ...",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write what was asked for; prints the paths."""
    records = read_scores(args.run)
    table = tasks_of(next(iter(records.values()))["protocol"]["name"])
    print(write_report(args.run, table))
    if args.against is not None:
        name = f"against-{args.against.resolve().name}.html"
        print(write_comparison(args.run, args.against, args.run / name))
    if args.leaderboard is not None:
        write_json(args.leaderboard, leaderboard(records, table, _pairs(args.metadata)))
        print(args.leaderboard)
    return 0


def _pairs(values: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign:
            raise InvalidOption(f"--metadata {value!r} has no value", fix="write NAME=VALUE")
        found[name] = text
    return found
