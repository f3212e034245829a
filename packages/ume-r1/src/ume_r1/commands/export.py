"""`ume export`: a model in another form, through the plugin that has the format."""

from __future__ import annotations

import argparse
from pathlib import Path

from ume_core.errors import InvalidOption, did_you_mean
from ume_core.hookspecs import ExporterSpec, resolve
from ume_core.loading import locate
from ume_core.options import make_options
from ume_core.plugins import registry
from ume_r1.arguments import Parser
from ume_r1.commands.common import option_argument


def arguments(parser: Parser) -> None:
    """What to export, where and how."""
    parser.examples(
        "ume export ume-r1-2b r1-onnx",
        "ume export ume-nano nano --format sentence-transformers",
        "ume export ume-r1-2b r1-onnx -o precision=int8",
    )
    formats = "; ".join(f"{s.name}: {s.description}" for s in registry().exporters.values())
    parser.add_argument("model", help="alias, checkpoint directory or hub id")
    parser.add_argument(
        "directory", nargs="?", type=Path, help="a new directory (tensorrt: none, if MODEL is one)"
    )
    shown = f"default: onnx. {formats}" if formats else "none is installed"
    parser.add_argument("--format", default="onnx", help=shown)
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
        fix = f"{did_you_mean(name, formats)}known formats: {known}"
        raise InvalidOption(f"unknown format {name!r}", fix=fix)
    return formats[name]
