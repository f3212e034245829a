"""The `ume` command: subcommands come from plugins, this package's own included."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ume_core.errors import UmeError
from ume_core.plugins import registry, resolve


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (0 done, 1 some items failed, 2 error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UmeError as error:
        print(f"ume: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ume: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    commands = registry().commands
    parser = argparse.ArgumentParser(prog="ume", description="Multimodal embeddings with UME-R1.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((a for a in arguments if a in commands), None)
    for name, spec in commands.items():
        sub = subparsers.add_parser(name, help=spec.help, description=spec.help.capitalize() + ".")
        if name == chosen:  # only the chosen command's module is imported
            resolve(spec.arguments)(sub)
    parsed = parser.parse_args(arguments)
    status = resolve(commands[parsed.command].run)(parsed)
    sys.stdout.flush()
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
