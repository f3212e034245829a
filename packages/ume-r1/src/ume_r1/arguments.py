"""The parser behind every command: argparse, which plugins add to, without its guesses.

Other libraries were left out on purpose: a plugin's `CommandSpec` adds arguments to an argparse
parser, and `ume --help` has 0.15 s.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import NoReturn

from ume_core.errors import did_you_mean

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


def question(word: str, known: Iterable[str]) -> str:
    """`. Did you mean 'X'?`, for the end of a message; empty if nothing known is like the word."""
    near = did_you_mean(word, known).strip()
    return f". D{near[1:]}" if near else ""


class UsageError(Exception):
    """A call that the parser does not understand; the text says what and how it is used."""


class Parser(argparse.ArgumentParser):
    """argparse with suggestions in place of guesses, and one line of usage in its errors."""

    def __init__(self, prog: str, description: str = "", **named: object) -> None:
        """Make a parser.

        Args:
            prog: the command as it is typed, such as `ume search`.
            description: what it does.
            **named: whatever else argparse takes, as it passes it on to parsers of subcommands.
        """
        named = {"formatter_class": argparse.RawDescriptionHelpFormatter} | named
        self._line = ""
        super().__init__(prog=prog, description=description, allow_abbrev=False, **named)  # type: ignore[arg-type]

    def examples(self, *lines: str) -> None:
        """Show calls at the end of `--help`."""
        self.epilog = "\n".join(("examples:", *(f"  {line}" for line in lines)))

    def read(self, arguments: list[str]) -> argparse.Namespace:
        """The parsed arguments.

        Raises:
            UsageError: the parser does not understand them.
        """
        # Intermixed, so that words may follow options: `ume search INDEX --image f "in red"`.
        # argparse has no such mode for commands with subcommands, which say so by this default.
        self._line = self.one_line()  # argparse changes its actions while it parses intermixed
        nested = self.get_default("subcommands")
        parse = self.parse_known_args if nested else self.parse_known_intermixed_args
        args, extras = parse(arguments)
        if extras:
            first = extras[0].partition("=")[0]
            if not first.startswith("-"):
                self.error(f"unexpected argument {extras[0]!r}")
            options = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
            self.error(f"unknown option {first!r}{question(first, options)}")
        return args

    def one_line(self) -> str:
        """The usage, with the options summed up."""
        words: list[str] = []
        for action in self._actions:
            if action.option_strings:
                if action.required:
                    words.append(f"{action.option_strings[-1]} {self._shown(action)}")
                continue
            shown = self._shown(action)
            words.append({"?": f"[{shown}]", "*": f"[{shown} ...]"}.get(str(action.nargs), shown))
        return " ".join([self.prog, *words, "[OPTIONS]"])

    def format_usage(self) -> str:
        """One line."""
        return f"usage: {self.one_line()}\n"

    def format_help(self) -> str:
        """argparse's, with the usage on one line."""
        self.usage = self._line or self.one_line()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how it is used.

        Raises:
            UsageError: always.
        """
        wrong = _CHOICE.search(message)
        if wrong:
            choices = re.findall(r"'?([^',\s]+)'?", wrong[2])
            message += question(wrong[1], choices)
        raise UsageError(f"{self.prog}: {message}\nusage: {self._line or self.one_line()}")

    def _shown(self, action: argparse.Action) -> str:
        return str(action.metavar or action.dest.upper())
