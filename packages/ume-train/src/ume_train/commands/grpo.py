"""`ume train grpo`."""

from __future__ import annotations

import argparse

from ume_train.commands import stage


def arguments(parser: argparse.ArgumentParser) -> None:
    """See `stage.arguments`."""
    stage.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train."""
    return stage.run("grpo", args)
