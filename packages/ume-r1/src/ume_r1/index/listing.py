"""What a folder holds, and what can be said about a file that was not seen.

A file counts as deleted only on evidence: the directory it was in, or the one that directory was
in, was read to its end and lacks the name. A directory that cannot be read, or that is empty where
files were (an unmounted disk leaves an empty mount point), is no evidence.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ume_core.errors import InvalidOption
from ume_r1.files import kind_of, lacks
from ume_r1.index.shelf import Shelf


@dataclass
class Listing:
    """The visible entries below a folder; names are relative to it, with `/` between parts.

    Attributes:
        files: names of files to embed, in order. Links to files are among them; nothing was opened.
        folders: directories read to their end.
        empty: those of `folders` that hold nothing visible.
        unlisted: directory -> why it could not be read; what is below it is unknown.
        unread: suffix -> count of the files of kinds that are not embedded.
        lacking: file -> the package that is missing to read it; they are counted in `unread` too.
    """

    files: Shelf[tuple[()]] = field(default_factory=lambda: Shelf[tuple[()]]())
    folders: set[str] = field(default_factory=set[str])
    empty: set[str] = field(default_factory=set[str])
    unlisted: dict[str, str] = field(default_factory=dict[str, str])
    unread: Counter[str] = field(default_factory=Counter[str])
    lacking: dict[str, str] = field(default_factory=dict[str, str])

    def unsure(self, name: str) -> tuple[str, str] | None:
        """Why nobody can say that the file `name`, which was not found, is deleted.

        Returns:
            (directory, reason), or None where there is evidence. The reason of an empty directory
            is `EMPTY`.
        """
        if name in self.lacking:
            return name, f"{self.lacking[name]} is not installed, which reads it"
        parts = PurePosixPath(name).parts
        for depth in range(len(parts)):
            directory = "/".join(parts[:depth])
            if directory in self.unlisted:
                return directory, self.unlisted[directory]
            if directory in self.empty:
                return directory, EMPTY
            if directory not in self.folders:
                return None  # the directory above it was read and lacks it
        return (name, self.unlisted[name]) if name in self.unlisted else None


EMPTY = "it is empty, but files were indexed from it"
_LINK = "it is a link to a folder, and those are not followed"


def list_folder(folder: Path, leave_out: Path | None = None) -> Listing:
    """Read a folder and everything below it but hidden entries and `leave_out`.

    Args:
        folder: the folder; absolute if `leave_out` is given.
        leave_out: a directory to pass over (the index may lie in the folder), absolute.

    Raises:
        InvalidOption: the folder itself cannot be read.
    """
    found = Listing()
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        here = folder / directory
        if here == leave_out:
            continue
        try:
            with os.scandir(here) as entries:
                visible = [e for e in entries if not e.name.startswith(".")]
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
            if not directory:
                raise InvalidOption(
                    f"the folder {folder} cannot be read: {error.strerror or error}",
                    fix="check the path, its permissions and whether its disk is mounted",
                ) from error
            found.unlisted[directory] = reason
            continue
        found.folders.add(directory)
        if not visible:
            found.empty.add(directory)
        for entry in visible:
            name = f"{directory}/{entry.name}" if directory else entry.name
            _sort_entry(entry, name, found, waiting)
    return found


def sort_in(name: str, found: Listing) -> bool:
    """Note a file by its kind; whether it is one to embed."""
    if kind_of(PurePosixPath(name)) is not None:
        found.files[name] = ()
        return True
    found.unread[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
    package = lacks(PurePosixPath(name))
    if package is not None:
        found.lacking[name] = package
    return False


def _sort_entry(entry: os.DirEntry[str], name: str, found: Listing, waiting: list[str]) -> None:
    try:
        if entry.is_dir(follow_symlinks=False):
            waiting.append(name)
            return
        to_folder = entry.is_symlink() and entry.is_dir()
    except OSError as error:  # a file system that tells kinds only by stat, which failed
        found.unlisted[name] = f"it cannot be read: {error.strerror or error}"
        return
    if to_folder and kind_of(PurePosixPath(name)) is None:
        found.unlisted[name] = _LINK
    else:
        sort_in(name, found)
