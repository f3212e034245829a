"""What a command line names: files, folders, patterns, texts and standard input, as entries."""

from __future__ import annotations

import glob
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ume_core.errors import InvalidItem, InvalidOption, UmeError
from ume_core.items import Item, Text
from ume_core.limits import Limits
from ume_core.pdf import page_name, split_page
from ume_r1.commands.common import check_file
from ume_r1.files import item_from_file, kind_of, left_out, pages_of
from ume_r1.index.listing import list_folder
from ume_r1.output import tell

STANDARD_INPUT = "-"
_TEXT_ID = 16  # hexadecimal digits: two of a billion texts share an id once in 37


@dataclass(frozen=True)
class Entry:
    """One thing to embed.

    Attributes:
        id: what its row is called.
        path: the file, as it was named, or the page of one; empty for a text.
        text: the text; None for a file.
    """

    id: str
    path: str = ""
    text: str | None = None

    @property
    def shown(self) -> str:
        """How people are told of it: a file by its path, a text by its beginning."""
        if self.text is None:
            return self.path
        return f"text {self.text if len(self.text) <= 40 else self.text[:40] + '…'!r}"

    def stamp(self) -> str:
        """What tells whether a file changed: size and time; empty for a text."""
        if self.text is not None:
            return ""
        try:
            status = Path(split_page(self.path)[0]).stat()
        except OSError:
            return "gone"
        return f"{status.st_size}:{status.st_mtime_ns}"

    def item(self, limits: Limits) -> Item:
        """The item; pictures and clips are not opened yet.

        Raises:
            UmeError: the file is not there, is of no known kind, or is no text.
        """
        if self.text is not None:
            return Item((Text(self.text),))
        check_file(Path(self.path))
        return item_from_file(Path(self.path), limits)


def gather(
    named: Sequence[str], texts: Sequence[str], *, null: bool = False, id_from: str = "path"
) -> list[Entry]:
    """All entries, in the order in which they were named.

    Args:
        named: files; folders, for all in them; patterns such as `photos/**/*.png`, which a shell
            may have left alone; `-`, for the lines of standard input.
        texts: texts.
        null: standard input holds paths that end in NUL, not texts in lines.
        id_from: a key of `ID_FROM`.

    Raises:
        InvalidItem: nothing is named, or a pattern fits nothing.
        InvalidOption: two files have one id, or standard input is no UTF-8.
    """
    entries: list[Entry] = []
    make = ID_FROM[id_from]
    for name in [*named, *([STANDARD_INPUT] if null and STANDARD_INPUT not in named else [])]:
        if name != STANDARD_INPUT or null:
            files = _files(name) if name != STANDARD_INPUT else _input().split("\0")
            entries += [Entry(_id(make, path), path) for path in _with_pages(files) if path]
        else:
            lines = (line.removesuffix("\r") for line in _input().split("\n"))
            entries += [_text(line) for line in lines if line.strip()]
    entries += [_text(text) for text in texts]
    if not entries:
        raise InvalidItem(
            "nothing to embed",
            fix="name files or folders, pass --text, or - for the lines of standard input",
        )
    if id_from != "digest":  # files of one content may share one
        _check_ids(entries)
    return entries


def _with_pages(files: Sequence[str]) -> Iterator[str]:
    """The files, those of several pages page by page."""
    for file in files:
        try:
            yield from pages_of(Path(file), Limits()) if kind_of(Path(file)) == "pdf" else [file]
        except UmeError:  # said again, with its reason, when it is to be embedded
            yield file


def _id(make: Callable[[str], str], path: str) -> str:
    file, page = split_page(path)
    return make(file) if page is None else page_name(make(file), page)


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:  # said again, with its reason, when it is to be embedded
        return path


# What a file's row is called: its path as named, its name, that without the suffix, or the SHA-256
# of its bytes.
ID_FROM: dict[str, Callable[[str], str]] = {
    "path": str,
    "name": lambda path: Path(path).name,
    "stem": lambda path: Path(path).stem,
    "digest": _digest,
}


def _text(text: str) -> Entry:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return Entry(f"text:{digest[:_TEXT_ID]}", text=text)


def _files(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if path.exists() or split_page(name)[1] is not None or not glob.has_magic(name):
        return [name]
    found = [p for p in sorted(glob.glob(name, recursive=True)) if kind_of(Path(p)) is not None]  # noqa: PTH207
    if not found:
        raise InvalidItem(f"no picture, clip or text is named like {name!r}", fix="check it")
    return found


def _folder(path: Path) -> list[str]:
    listing = list_folder(path)
    for line in left_out(listing.unread)[0]:
        tell(line)
    for folder, reason in listing.unlisted.items():
        tell(f"skipped {path / folder}: {reason}")
    return [str(path / name) for name in listing.files]


def _input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise InvalidOption(f"standard input: {error}", fix="pipe something into it") from error


def _check_ids(entries: list[Entry]) -> None:
    places: dict[str, str] = {}
    for entry in entries:
        other = places.setdefault(entry.id, entry.path)
        if other != entry.path:
            raise InvalidOption(
                f"{other} and {entry.path} have the same id {entry.id!r}",
                fix="use --id-from path",
            )
