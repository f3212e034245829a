"""`ume save`: a model as another library's directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.loading import locate
from ume_core.plugins import registry, resolve


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to save, where, and for whom."""
    parser.add_argument("model", help="alias, checkpoint directory or hub id")
    parser.add_argument("directory", nargs="?", type=Path, help="default: the model's name")
    parser.add_argument("--format", default="sentence-transformers", help="see 'ume plugins'")


def run(args: argparse.Namespace) -> int:
    """Write the directory through the plugin that has the format."""
    formats = registry().exporters
    if args.format not in formats:
        known = (
            ", ".join(sorted(formats))
            or "none; in a clone: pip install plugins/ume-sentence-transformers"
        )
        raise InvalidOption(f"unknown format {args.format!r}", fix=f"known formats: {known}")
    location, _ = locate(args.model)
    directory = args.directory or Path(Path(str(args.model)).name)
    written = resolve(formats[args.format].run)(location, directory, {})
    print(f"{written}: {formats[args.format].description}")
    return 0
