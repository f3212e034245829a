"""The `ume` command: subcommands come from plugins, this package's own included."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ume_core.errors import UmeError
from ume_core.hookspecs import resolve
from ume_core.plugins import registry
from ume_core.terminal import escape_missing_characters, system_fix


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (0 done, 1 some items failed, 2 error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    escape_missing_characters()
    try:
        return _run(arguments)
    except UmeError as error:
        print(f"ume: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ume: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"ume: {error}. Fix: {system_fix(error)}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    commands = registry().commands
    if not arguments or arguments[0] not in commands:
        _top_level(arguments)
    spec = commands[arguments[0]]
    parser = argparse.ArgumentParser(
        prog=f"ume {spec.name}", description=spec.help.capitalize() + "."
    )
    resolve(spec.arguments)(parser)  # only the chosen command's module is imported
    # Intermixed, so that words may follow options: `ume search INDEX --image f "in red"`. argparse
    # has no such mode for commands with subcommands, which say so by this default.
    nested = parser.get_default("subcommands")
    parse = parser.parse_args if nested else parser.parse_intermixed_args
    status = resolve(spec.run)(parse(arguments[1:]))
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - closed by the shell
        sys.stdout.flush()
    return int(status)


def _top_level(arguments: list[str]) -> NoReturn:
    """`ume`, `ume --help`, `ume --version` and unknown commands; always exits."""
    parser = argparse.ArgumentParser(prog="ume", description="Multimodal embeddings with UME-R1.")
    parser.add_argument("--version", action="version", version=version("ume-r1"))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, spec in registry().commands.items():
        subparsers.add_parser(name, help=spec.help)
    parser.parse_args(arguments)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
