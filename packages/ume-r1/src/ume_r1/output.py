"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

_verbosity = 0


def set_verbosity(level: int) -> None:
    """How much is said: -1 results and errors only, 0 the usual, 1 the log, 2 all of the log."""
    global _verbosity
    _verbosity = level
    if level > 0:
        import logging

        form = "%(levelname)s %(name)s: %(message)s"
        logging.basicConfig(format=form, stream=sys.stderr, force=True)
        logging.getLogger().setLevel(logging.INFO if level == 1 else logging.DEBUG)


def quiet() -> bool:
    """Whether results and errors alone are wanted."""
    return _verbosity < 0


def tell(line: str) -> None:
    """Say what happened, on standard error, unless that is not wanted."""
    if not quiet():
        print(line, file=sys.stderr)


def complain(line: str) -> None:
    """Say what went wrong, on standard error."""
    print(line, file=sys.stderr)


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json_line(value, getattr(sys.stdout, "encoding", None)))


def json_line(value: Any, encoding: str | None = "utf-8") -> str:
    """One line of JSON, with JSON's own escapes where the encoding lacks a character."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return line


def valid_unicode(text: str) -> str:
    r"""The text, with what no encoding has (`\udce9`, of a file's odd name) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """A file name on one line, whatever is in it."""
    return name if name.isprintable() else ascii(name)[1:-1]
