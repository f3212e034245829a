"""`ume train`: its subcommands. Only the chosen one's libraries are imported."""

from __future__ import annotations

import argparse
from importlib import import_module

_SUBCOMMANDS = {
    "sft": "supervised fine-tuning of disc, gen and the thinking",
    "grpo": "reinforce the thinking by what its vector retrieves",
    "filter": "leave out pairs whose thinking helps hard negatives more than the positive",
    "scale": "print the path of an accelerate configuration: ddp, fsdp2, zero3",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add every subcommand."""
    parser.set_defaults(subcommands=True)
    subparsers = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, help_text in _SUBCOMMANDS.items():
        sub = subparsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        _module(name).arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    return int(_module(args.stage).run(args))


def _module(name: str):  # noqa: ANN202 - a module
    return import_module(f"ume_train.commands.{name}")
