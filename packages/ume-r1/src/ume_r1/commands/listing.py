"""`ume models` and `ume plugins`."""

from __future__ import annotations

import argparse

from ume_core.errors import InvalidOption
from ume_core.hookspecs import resolve
from ume_core.options import describe_options
from ume_core.plugins import registry


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Neither command takes arguments."""


def models(args: argparse.Namespace) -> int:
    """Print the named models."""
    for name, spec in sorted(registry().models.items()):
        print(f"{name:14} {spec.description}")
    print("A checkpoint directory or hub id works wherever a name does.")
    return 0


def plugins_arguments(parser: argparse.ArgumentParser) -> None:
    """What to describe."""
    parser.add_argument("name", nargs="?", help="an engine or format, to list its options")


def plugins(args: argparse.Namespace) -> int:
    """Print what each plugin brings, what is broken or unavailable, or one plugin's options."""
    found = registry()
    if args.name is not None:
        return _options(args.name)
    for name, spec in sorted(found.backends.items()):
        state = spec.missing() or "available"
        modes = ", ".join(sorted(spec.modes))
        print(f"engine   {name:14} {modes:16} {found.origins[f'engine/{name}']}: {state}")
    for kind, names in (
        ("model", found.models),
        ("command", found.commands),
        ("exporter", found.exporters),
    ):
        for name in sorted(names):
            print(f"{kind:8} {name:14} {'':16} {found.origins[f'{kind}/{name}']}")
    for origin, reason in sorted(found.broken.items()):
        print(f"broken   {origin}: {reason}")
    return 1 if found.broken else 0


def _options(name: str) -> int:
    """Print the options of an engine or format."""
    found = registry()
    spec = found.backends.get(name) or found.exporters.get(name)
    if spec is None:
        known = ", ".join(sorted({*found.backends, *found.exporters}))
        raise InvalidOption(f"no engine or format {name!r}", fix=f"use one of: {known}")
    print(f"{name}: {spec.description}")
    for option in describe_options(resolve(spec.options) if spec.options else None):
        print(f"  -o {option.name}={option.default}\n      {option.text}")
    return 0
