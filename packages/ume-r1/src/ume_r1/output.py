"""Writing whatever a text holds to terminals and files that lack some of its characters."""

from __future__ import annotations

import io
import json
import sys
from typing import Any


def escape_missing_characters() -> None:
    r"""Make standard output and error escape what their encoding lacks (`\u72ac`), not fail.

    A terminal's encoding may be ASCII or cp1252, and a file's name need not be valid Unicode; work
    that is done must not be lost over how it is shown.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None without a terminal; anything in tests
            stream.reconfigure(errors="backslashreplace")


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
