"""The `ume` command: subcommands come from plugins, this package's own included."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ume_core.errors import UmeError
from ume_core.plugins import registry, resolve
from ume_r1.output import escape_missing_characters

_FIXES = {
    errno.ENOSPC: "free space on its disk, or name another place",
    errno.EDQUOT: "free space in your quota, or name another place",
    errno.EROFS: "name a place on a disk that is not read-only",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "close programs that hold many files open",
    errno.ENOMEM: "free memory",
    errno.EIO: "check the disk: it fails to read or write",
}


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
        fix = _FIXES.get(error.errno or 0, "check the path and the disk it is on")
        print(f"ume: {error}. Fix: {fix}", file=sys.stderr)
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
    # Intermixed, so that words may follow options: `ume search INDEX --image f "in red"`.
    status = resolve(spec.run)(parser.parse_intermixed_args(arguments[1:]))
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
