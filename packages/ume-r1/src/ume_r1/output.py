"""Writing whatever a text holds to files and streams that lack some of its characters."""

from __future__ import annotations

import json
from typing import Any


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
