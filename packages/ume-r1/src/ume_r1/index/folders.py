"""The folder that an index is of: on a disk, or on an object store by its URI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from ume_core.errors import InvalidOption
from ume_r1.index.listing import Listing, list_folder
from ume_r1.index.reading import Content, Unreadable, digest_file, read_file, stamp_file
from ume_r1.index.seen import Stamp

# A path, a URI such as `s3://bucket/photos`, or what `folder_at` makes of one.
FolderLike: TypeAlias = "str | Path | Folder"
TABLE = "table://"  # before the place of a table, whose rows are indexed in place of files


class Folder(Protocol):
    """Files by their names: paths below the folder, `/` between their parts.

    Attributes:
        name: as an index keeps it: an absolute path or a URI.
        near: whether reading a file twice costs little, as on a disk.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def near(self) -> bool: ...  # noqa: D102

    def check(self) -> None:
        """Find out whether it can be listed at all.

        Raises:
            InvalidOption: it cannot; with the fix.
        """
        ...

    def list(self, leave_out: str = "") -> Listing:
        """All files below it but hidden ones.

        Args:
            leave_out: a directory to pass over, by its absolute path or URI.

        Raises:
            InvalidOption: the folder itself cannot be read.
        """
        ...

    def stamp(self, name: str) -> Stamp:
        """The stamp of a file, without reading it.

        Raises:
            Unreadable: it cannot be indexed.
        """
        ...

    def digest(self, name: str) -> tuple[str, Stamp]:
        """The SHA-256 of a file's content, without holding it (see `stamp`)."""
        ...

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, Content | Unreadable]]:
        """The files' contents in order, or why one cannot be indexed; each when it is asked for."""
        ...


class LocalFolder:
    """A folder on a disk."""

    near = True

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def name(self) -> str:
        """Its absolute path."""
        return str(self.path)

    def check(self) -> None:
        """See `Folder.check`."""
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise InvalidOption(f"{self.path} {what}", fix="name a folder with pictures or clips")

    def list(self, leave_out: str = "") -> Listing:
        """See `Folder.list`."""
        return list_folder(self.path, Path(leave_out) if leave_out else None)

    def stamp(self, name: str) -> Stamp:
        """See `Folder.stamp`."""
        return stamp_file(self.path, name)

    def digest(self, name: str) -> tuple[str, Stamp]:
        """See `Folder.digest`."""
        return digest_file(self.path, name)

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, Content | Unreadable]]:
        """See `Folder.contents`."""
        for name in names:
            try:
                yield name, read_file(self.path, name)
            except Unreadable as error:
                yield name, error


def is_uri(name: str | Path) -> bool:
    """Whether it names a place by a URI rather than by a path."""
    return isinstance(name, str) and "://" in name


def is_table(name: str | Path) -> bool:
    """Whether it names a table, whose rows go by their ids, rather than a folder."""
    return isinstance(name, str) and name.startswith(TABLE)


def folder_at(folder: FolderLike) -> Folder:
    """The folder of this path or URI.

    Raises:
        InvalidOption: no driver reads such URIs here, or the URI is none of a folder.
    """
    if isinstance(folder, Path):
        return LocalFolder(folder)
    if not isinstance(folder, str):
        return folder
    if not is_uri(folder):
        return LocalFolder(Path(folder))
    from ume_r1.index.remote import RemoteFolder

    return RemoteFolder(folder)


def directory_at(name: str | Path) -> Path:
    """The directory of an index, by its path or URI; on an object store with a path's methods.

    Raises:
        InvalidOption: the URI is none of a store, or it cannot be reached.
        EngineUnavailable: no driver reads such URIs here.
    """
    if isinstance(name, Path) or not is_uri(name):
        return Path(name) if isinstance(name, str) else name
    from ume_r1.index.remote import place_at

    return place_at(name)
