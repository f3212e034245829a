"""`ume export`: a model in another form, through the plugin that has the format."""

from __future__ import annotations

import argparse
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.hookspecs import ExporterSpec, resolve
from ume_core.loading import locate
from ume_core.options import make_options
from ume_core.plugins import registry
from ume_r1.commands.common import option_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, where and how."""
    formats = "; ".join(f"{s.name}: {s.description}" for s in registry().exporters.values())
    parser.add_argument("model", help="alias, checkpoint directory or hub id")
    parser.add_argument(
        "directory", nargs="?", type=Path, help="a new directory (tensorrt: none, if MODEL is one)"
    )
    parser.add_argument("--format", default="onnx", help=formats or "none is installed")
    option_argument(parser, "an option of the format; 'ume plugins FORMAT' lists them")


def run(args: argparse.Namespace) -> int:
    """Write the directory."""
    spec = _format(args.format)
    options_class = resolve(spec.options) if spec.options else None
    options = make_options(f"{spec.name} format", options_class, dict(args.options))
    location, alias = locate(args.model)
    here = alias is None and Path(args.model).is_dir()
    name = Path(args.model).resolve().name if here else str(args.model)
    resolve(spec.run)(location, name, args.directory, options)
    print(f"{args.directory or location}: {spec.description}")
    return 0


def _format(name: str) -> ExporterSpec:
    formats = registry().exporters
    if name not in formats:
        known = ", ".join(sorted(formats)) or "none is installed"
        raise InvalidOption(f"unknown format {name!r}", fix=f"known formats: {known}")
    return formats[name]
