"""`ume train scale`: where accelerate's configurations are."""

from __future__ import annotations

import argparse
from importlib.resources import files

_NAMES = ("ddp", "fsdp2", "zero3")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which one."""
    parser.add_argument("name", choices=_NAMES, help="one process a GPU, FSDP2, DeepSpeed ZeRO-3")


def run(args: argparse.Namespace) -> int:
    """Print its path, for `accelerate launch --config_file`."""
    print(files("ume_train") / "scale" / f"{args.name}.yaml")
    return 0
