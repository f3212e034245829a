"""`ume eval`: its subcommands. Only the chosen one's libraries are imported."""

from __future__ import annotations

import argparse
from importlib import import_module

_SUBCOMMANDS = {
    "mmeb": "score a model on MMEB-V2",
    "tasks": "list the 78 tasks and their data",
    "scaling": "measure what thinking is worth",
    "report": "write reports of a run, compare two, make the leaderboard file",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add every subcommand."""
    parser.set_defaults(subcommands=True)
    subparsers = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
    for name, help_text in _SUBCOMMANDS.items():
        sub = subparsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        _module(name).arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    return int(_module(args.study).run(args))


def _module(name: str):  # noqa: ANN202 - a module
    return import_module(f"ume_eval.commands.{name}")
