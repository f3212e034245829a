"""Files of records larger than memory: one pass finds where each record stands.

A file is a JSON array of objects, as published, or JSON lines. The pass keeps a few numbers per
record; afterwards any record is read alone.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidItem

_READ = 1 << 20  # bytes
_LONGEST = 64 << 20  # characters of one record
_TOKEN = 10  # characters: an error so close to the end of what was read may be a token cut in two


@dataclass(frozen=True)
class Unparsed:
    """A line that is no JSON, in a record's place.

    Attributes:
        why: as the parser says.
    """

    why: str


def scan(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Every record with its first byte and its length in bytes.

    A broken line of JSON lines is an `Unparsed`, and the next line is read; behind a broken record
    of an array nobody knows where the next one begins.

    Raises:
        InvalidItem: the file is neither a JSON array nor JSON lines; it names the record.
    """
    with path.open("rb") as handle:
        window = _Window(path, handle)
        window.skip()
        array = window.text.startswith("[")
        if array:
            window.take(1)
            window.skip()
            if window.text.startswith("]"):
                return
        elif not window.text:
            return
        number = 0
        while True:
            try:
                found, start, length = window.record(number)
            except _Unreadable as error:
                if array:
                    raise _broken(path, number, window.start, str(error)) from error
                start, length = window.line()
                found = Unparsed(str(error))
            yield start, length, found
            number += 1
            window.skip()
            if array:
                ending = window.text[:1]
                if ending not in (",", "]"):
                    raise _broken(path, number, window.start, "no comma or ] after it")
                window.take(1)
                window.skip()
                if ending == "]":
                    if window.text:
                        raise _broken(path, number, window.start, "text after the array")
                    return
            elif not window.text:
                return


def read_record(path: Path, start: int, length: int) -> Any:
    """One record, parsed."""
    with path.open("rb") as handle:
        handle.seek(start)
        return json.loads(handle.read(length))


class _Unreadable(Exception):
    """No record stands there."""


class _Window:
    """The part of a file that is being parsed."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path, self.text, self.start = path, "", 0
        self._handle, self._ended = handle, False
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parser = json.JSONDecoder()

    def skip(self) -> None:
        """Past white space, reading on where the window is empty."""
        while True:
            lead = len(self.text) - len(self.text.lstrip())
            self.take(lead)
            if self.text or not self._more():
                return

    def take(self, characters: int) -> None:
        """Past so many characters."""
        self.start += len(self.text[:characters].encode())
        self.text = self.text[characters:]

    def record(self, number: int) -> tuple[Any, int, int]:
        """The record at the window's beginning: parsed, first byte, bytes.

        Raises:
            InvalidItem: it is too long.
            _Unreadable: it is no JSON.
        """
        while True:
            error = ""
            try:
                found, end = self._parser.raw_decode(self.text)
                if end < len(self.text) or self._ended:
                    break
            except RecursionError as problem:
                raise _Unreadable(str(problem)) from problem
            except json.JSONDecodeError as problem:
                error = str(problem)
                cut = problem.pos > len(self.text) - _TOKEN or problem.msg.startswith(
                    "Unterminated"
                )
                if not cut:
                    raise _Unreadable(error) from problem
            if len(self.text) > _LONGEST:
                raise _broken(self.path, number, self.start, error or "longer than 64 MiB")
            if not self._more(len(self.text)) and error:
                raise _Unreadable(error)
        start = self.start
        self.take(end)
        return found, start, self.start - start

    def line(self) -> tuple[int, int]:
        """Past the window's first line; its first byte and its bytes."""
        start = self.start
        while "\n" not in self.text and self._more():
            pass
        self.take(len(self.text.partition("\n")[0]))
        return start, self.start - start

    def _more(self, least: int = 0) -> bool:
        """Read on; False at the file's end."""
        if self._ended:
            return False
        try:
            read = self._handle.read(max(_READ, least))
            self._ended = not read
            self.text += self._decode.decode(read, final=not read)
        except UnicodeDecodeError as error:
            raise InvalidItem(
                f"{self.path} is not UTF-8: {error}", fix="save it as UTF-8"
            ) from error
        return bool(read)


def _broken(path: Path, number: int, start: int, why: str) -> InvalidItem:
    return InvalidItem(
        f"{path}: record {number}, at byte {start:,}, is no JSON ({why})",
        fix="give a JSON array of objects, or one object a line",
    )
