"""`ume models` and `ume plugins`."""

from __future__ import annotations

import argparse

from ume_core.plugins import registry


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Neither command takes arguments."""


def models(args: argparse.Namespace) -> int:
    """Print the named models."""
    for name, spec in sorted(registry().models.items()):
        print(f"{name:14} {spec.description}")
    print("A checkpoint directory or hub id works wherever a name does.")
    return 0


def plugins(args: argparse.Namespace) -> int:
    """Print what each plugin brings, and what is broken or unavailable."""
    found = registry()
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
