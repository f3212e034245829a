"""The `ume` command: subcommands come from plugins, this package's own included."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ume_core.errors import UmeError
from ume_core.hookspecs import CommandSpec, resolve
from ume_core.plugins import registry
from ume_core.terminal import escape_missing_characters, system_fix
from ume_r1 import output
from ume_r1.arguments import Parser, UsageError, question

_DESCRIPTION = "Multimodal embeddings with UME-R1."
_NOTES = """
'ume COMMAND --help' has the options and examples of each. UME_MODEL, UME_ENGINE, UME_DEVICE and
UME_DTYPE, or a file ~/.config/ume/config.toml, set what those options leave out.
Exit status: 0 done, 1 some items failed or are gone, 2 a wrong call or another error."""
_VERBOSITY = ("-q", "--quiet", "-v", "--verbose", "-vv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (0 done, 1 some items failed, 2 error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    escape_missing_characters()
    try:
        return _run(arguments)
    except (UmeError, UsageError) as error:
        prefix = "" if isinstance(error, UsageError) else "ume: "
        print(f"{prefix}{error}", file=sys.stderr)
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
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        return _complete(commands)
    first = next((n for n, word in enumerate(arguments) if word not in _VERBOSITY), None)
    if first is None:
        print(_overview(commands), file=sys.stderr)
        return 2
    name, rest = arguments[first], arguments[:first] + arguments[first + 1 :]
    if name in ("-h", "--help") or (name == "help" and not rest):
        print(_overview(commands))
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(version("ume-r1"))
        return 0
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name not in commands:
        what = "option" if name.startswith("-") else "command"
        near = question(name, [*commands, "--version", "--help", "help"])
        raise UsageError(
            f"ume: unknown {what} {name!r}{near}\nusage: ume COMMAND [OPTIONS]; 'ume --help' lists "
            "the commands"
        )
    parser = parser_of(commands[name])
    args = parser.read(rest)
    output.set_verbosity(args.verbose - args.quiet)
    status = resolve(commands[name].run)(args)
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - closed by the shell
        sys.stdout.flush()
    return int(status)


def parser_of(spec: CommandSpec) -> Parser:
    """The parser of a command; imports the module that knows its arguments."""
    parser = Parser(f"ume {spec.name}", spec.help[:1].upper() + spec.help[1:] + ".")
    resolve(spec.arguments)(parser)
    for short, long, text in (
        ("-q", "--quiet", "print results and errors only"),
        ("-v", "--verbose", "log what is done; -vv logs everything"),
    ):
        try:
            parser.add_argument(short, long, action="count", default=0, help=text)
        except argparse.ArgumentError:  # the command has one of its own
            parser.set_defaults(**{long[2:]: 0})
    return parser


def _overview(commands: dict[str, CommandSpec]) -> str:
    width = max(map(len, commands), default=0) + 2
    lines = [f"  {name:{width}}{spec.help}" for name, spec in sorted(commands.items())]
    return "\n".join(
        ["usage: ume COMMAND [OPTIONS]", "", _DESCRIPTION, "", "commands:", *lines, _NOTES]
    )


def _complete(commands: dict[str, CommandSpec]) -> int:
    import argcomplete

    parser = argparse.ArgumentParser("ume")
    subparsers = parser.add_subparsers()
    for name, spec in commands.items():
        whole = parser_of(spec)
        subparsers.add_parser(name, parents=[whole], add_help=False, help=spec.help)
    argcomplete.autocomplete(parser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
