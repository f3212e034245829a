"""`ume models` and `ume plugins`."""

from __future__ import annotations

import argparse
from typing import Any

from ume_core.errors import InvalidOption, did_you_mean
from ume_core.hookspecs import resolve
from ume_core.options import describe_options
from ume_core.plugins import registry
from ume_r1 import output
from ume_r1.arguments import Parser
from ume_r1.commands.common import json_argument


def models_arguments(parser: Parser) -> None:
    """Arguments of `ume models`."""
    parser.examples("ume models", "ume models --json | jq -r '.[].name'")
    json_argument(parser)


def models(args: argparse.Namespace) -> int:
    """Print the named models."""
    found = sorted(registry().models.items())
    if args.json:
        output.print_json([{"name": n, "description": spec.description} for n, spec in found])
        return 0
    for name, spec in found:
        print(f"{name:14} {spec.description}")
    output.tell("A checkpoint directory or hub id works wherever a name does.")
    return 0


def plugins_arguments(parser: Parser) -> None:
    """Arguments of `ume plugins`."""
    parser.examples("ume plugins", "ume plugins torch      # its options, for -o NAME=VALUE")
    parser.add_argument("name", nargs="?", help="an engine or format, to list its options")
    json_argument(parser)


def plugins(args: argparse.Namespace) -> int:
    """Print what each plugin brings, what is broken or unavailable, or one plugin's options."""
    if args.name is not None:
        return _options(args.name, json=args.json)
    rows, broken = _plugins(), registry().broken
    if args.json:
        rows += [{"kind": "broken", "plugin": o, "state": r} for o, r in sorted(broken.items())]
        output.print_json(rows)
        return 1 if broken else 0
    for row in rows:
        modes = ", ".join(row.get("modes", ()))
        state = f": {row['state']}" if "state" in row else ""
        print(f"{row['kind']:9} {row['name']:22} {modes:16} {row['plugin']}{state}")
    for origin, reason in sorted(broken.items()):
        print(f"broken    {origin}: {reason}")
    return 1 if broken else 0


def _plugins() -> list[dict[str, Any]]:
    found = registry()
    rows: list[dict[str, Any]] = []
    for name, spec in sorted(found.backends.items()):
        rows.append(
            {
                "kind": "engine", "name": name, "plugin": found.origins[f"engine/{name}"],
                "modes": sorted(spec.modes), "state": spec.missing() or "available",
            }
        )  # fmt: skip
    for kind, names in (
        ("model", found.models),
        ("command", found.commands),
        ("exporter", found.exporters),
        ("cluster", found.clusters),
    ):
        for name in sorted(names):
            rows.append({"kind": kind, "name": name, "plugin": found.origins[f"{kind}/{name}"]})
    return rows


def _options(name: str, *, json: bool) -> int:
    """Print the options of an engine or format."""
    found = registry()
    spec = found.backends.get(name) or found.exporters.get(name)
    if spec is None:
        known = sorted({*found.backends, *found.exporters})
        fix = f"{did_you_mean(name, known)}use one of: {', '.join(known)}"
        raise InvalidOption(f"no engine or format {name!r}", fix=fix)
    options = describe_options(resolve(spec.options) if spec.options else None)
    if json:
        output.print_json(
            [{"name": o.name, "default": _plain(o.default), "text": o.text} for o in options]
        )
        return 0
    print(f"{name}: {spec.description}")
    for option in options:
        print(f"  -o {option.name}={option.default}\n      {option.text}")
    return 0


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
