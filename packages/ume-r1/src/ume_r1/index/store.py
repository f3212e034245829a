"""The index on disk: opening, creating, searching, and loading its model again.

An index directory holds `ume-index.json` (see `description`), a LanceDB table (see `table`),
`seen.parquet` (see `seen`) and `.lock`. The description names the table in use, and is replaced in
one step; a table that it does not name is a leftover.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption
from ume_core.pdf import page_name
from ume_core.results import Vectors
from ume_core.signature import Signature
from ume_r1.index import description as about_file
from ume_r1.index import seen, snapshot
from ume_r1.index.dates import check_date
from ume_r1.index.description import Description, mismatch, read_description
from ume_r1.index.disk import entries, is_local, is_there, remove, temporary
from ume_r1.index.errors import DamagedIndex, disk_error
from ume_r1.index.folders import (
    TABLE,
    Folder,
    FolderLike,
    directory_at,
    folder_at,
    is_table,
    is_uri,
)
from ume_r1.index.hits import Hit, distinct, hits_of
from ume_r1.index.options import Asked
from ume_r1.index.pages import content_of, file_of
from ume_r1.index.reading import Unreadable
from ume_r1.index.rows import Narrow, vector_columns
from ume_r1.index.seal import damaged_files
from ume_r1.index.snapshot import Known, Snapshot, known_rows
from ume_r1.index.table import FOLDER, Found, Table, has_rows, table_folder, table_numbers

_LOCK = ".lock"
TEMPORARY = tuple(
    temporary(Path(name)).name for name in (about_file.NAME, seen.NAME, snapshot.NAME)
)
_OURS = {FOLDER, _LOCK, about_file.NAME, seen.NAME, snapshot.NAME, *TEMPORARY}
_SAMPLE = 16  # files compared before an index is taken to belong to a folder of another name
T = TypeVar("T")


class Index:
    """An index directory. Searching it while another process brings it up to date is safe."""

    def __init__(self, directory: Path, description: Description) -> None:
        """Take an index as described; its table is opened when it is first needed."""
        self.directory = directory
        self.description = description
        self._table: Table | Snapshot | None = None

    @classmethod
    def open(cls, directory: str | Path) -> Index:
        """Open an existing index.

        Raises:
            InvalidOption: the directory holds no index, or one of another version.
            DamagedIndex: a file of it is gone or not as it was written.
        """
        place = directory_at(directory)
        index = cls(place, read_description(place))
        len(index)
        return index

    @classmethod
    def create(cls, directory: Path, description: Description, *, rebuild: bool = False) -> Index:
        """Open the index there, or create it.

        Args:
            directory: of the index, as `directory_at` gives it.
            description: what it is to hold (see `Description.of`).
            rebuild: start anew, whatever is stored; also what cannot be read any more.

        Raises:
            SignatureMismatch: it holds vectors of another model, mode or setting.
            InvalidOption: it indexes another folder, or other files are in the way.
        """
        check_target(directory, rebuild=rebuild)
        try:
            if is_local(directory):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, directory) from error
        if rebuild or not has_index(directory):
            with lock(directory):
                generation = max(table_numbers(directory), default=0) + 1
                for name in (seen.NAME, snapshot.NAME):
                    remove(directory / name)
                fresh = replace(description, generation=generation, sealed={}, snapshot=None)
                # The table first: where the description is, the index is whole.
                Table(directory, generation, fresh.schema, create=True)
                fresh.write(directory)
            return cls(directory, fresh)
        index = cls(directory, read_description(directory))
        index.require(description.signature)
        index.move_to(description.folder)
        return index

    @property
    def folder(self) -> Path | str:
        """The indexed folder: where it was, or beside the index if both were moved together.

        A folder on an object store is its URI, which nothing here looks at.
        """
        if is_uri(self.description.folder):
            return self.description.folder
        stored = Path(self.description.folder)
        if not is_local(self.directory):
            return stored
        beside = (self.directory.resolve() / self.description.beside).resolve()
        return beside if not is_there(stored) and is_there(beside) else stored

    def require(self, signature: Signature) -> None:
        """Refuse vectors that do not compare with the stored ones.

        Raises:
            SignatureMismatch: with the fix.
        """
        found = self.description.signature.differences(signature)
        if found:
            raise mismatch(self.directory, self.description, found)

    def load_model(
        self, model: str | None = None, *, engine: str = "auto", **options: Any
    ) -> Embedder:
        """Load the model whose vectors the index holds, as it was loaded to make them.

        Args:
            model: another name of the same weights, such as a directory that was moved.
            engine: another engine than the stored one.
            options: fields of `ume_core.LoadOptions` to change, such as `device="cuda"`.

        Raises:
            SignatureMismatch: its vectors do not compare with the stored ones. A name or an option
                that cannot fit is refused before anything is downloaded or loaded.
            UmeError: as `ume_r1.load`.
        """
        asked = Asked(model, engine, options)
        about_file.check_asked(self.directory, self.description, asked, None)
        embedder = asked.over(self.description.asked).load()
        self.require(embedder.signature(self.description.mode))
        return embedder

    def __len__(self) -> int:
        return self._read(len)

    def known(self) -> Known:
        """path -> (kind, digest) of every row; a mapping that holds little of it in memory."""
        return self._read(known_rows)

    def search(
        self,
        vector: Vectors,
        mode: str,
        top: int,
        *,
        kind: str | None = None,
        under: str = "",
        since: str | None = None,
        until: str | None = None,
        min_score: float | None = None,
        unique: float | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the files most similar to a query.

        Exact below 100,000 items. Beyond, an index of the vectors chooses candidates, whose own
        cosines decide; the run that made it printed its recall.

        Args:
            vector: float32 (dimensions,), unit length, of a model that `require` accepts.
            mode: `disc` or `gen`: the stored vectors to compare with.
            top: number of results at most.
            kind: `image`, `video` or `text`: only files of this kind.
            under: only files in this folder below the indexed one, `/` between its parts.
            since: only files of this date or later: `2026`, `2026-05` or `2026-05-31`.
            until: only files of this date or earlier; `2026` includes its last day.
            min_score: only files of at least this cosine.
            unique: hide files whose cosine with a better hit is at least this; each is among the
                `duplicates` of that hit.
            exact: compare every vector, however many there are.

        Returns:
            hits, the most similar first.

        Raises:
            InvalidOption: `since` or `until` is no date.
            DamagedIndex: a row to be returned is not as it was written.
        """
        narrow = _narrow(kind, under, since, until)

        def found(count: int) -> Found:
            def nearest(table: Table | Snapshot) -> Found:
                if not len(table):
                    return [], vector[None][:0]
                return table.nearest(vector, mode, count, narrow, exact=exact)

            return self._read(nearest)

        return hits_of(distinct(found, top, min_score, unique), self.folder)

    def like(self, name: str, mode: str, top: int, **wanted: Any) -> list[Hit]:
        """More like an indexed file, by its stored vector: no model is needed.

        Args:
            name: the file's path in the folder, `/` between its parts; with `#page=3` of a PDF.
            mode: see `search`.
            top: number of results at most; the file itself is none of them, nor what `unique`
                hides behind it.
            wanted: further arguments of `search`.

        Raises:
            InvalidOption: the index has no such file.
        """
        if name not in self:
            first = page_name(name, 1)
            raise InvalidOption(
                f"{self.directory} has no file {name!r}",
                fix=f"name a page, such as {first!r}"
                if first in self
                else "name it as `ume search --json` does, by its path in the indexed folder",
            )
        _, vectors = self._read(lambda table: table.rows([name], mode))
        hits = self.search(vectors[0], mode, top + 1, **wanted)
        return [hit for hit in hits if hit.name != name][:top]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._read(lambda table: table.has(name))

    def scores(
        self,
        vector: Vectors,
        mode: str,
        *,
        kind: str | None = None,
        under: str = "",
        since: str | None = None,
        until: str | None = None,
    ) -> dict[str, float]:
        """The cosine of a query with every file, by the file's path in the folder; see `search`."""
        narrow = _narrow(kind, under, since, until)
        return self._read(lambda table: table.scores(vector, mode, narrow) if len(table) else {})

    def best(
        self,
        scores: Mapping[str, float],
        top: int,
        *,
        min_score: float | None = None,
        unique: float | None = None,
    ) -> list[Hit]:
        """The files with the highest scores, best first, equal ones by path; see `search`.

        Raises:
            DamagedIndex: a row to be returned is not as it was written.
        """
        paths = sorted(scores, key=lambda path: (-scores[path], path))
        mode = vector_columns(self.description.mode)[0]

        def found(count: int) -> Found:
            rows, vectors = self._read(lambda table: table.rows(paths[:count], mode))
            return [row | {"score": scores[row["path"]]} for row in rows], vectors

        return hits_of(distinct(found, top, min_score, unique), self.folder)

    def move_to(self, folder: FolderLike) -> None:
        """Take another path or URI for the indexed folder, if the files there are the indexed ones.

        Raises:
            InvalidOption: they are not.
        """
        place = folder_at(folder)
        old = self.description.folder
        if place.name == old:
            return
        try:
            rows = [(path, digest) for path, (_, digest) in self._sample()]
        except DamagedIndex:  # which is repaired when it knows its folder
            rows = list(islice(seen.Seen(self.directory).digests(), _SAMPLE))
        files = {file_of(path): content_of(digest) for path, digest in rows}
        same = sum(_digest(place, file) == content for file, content in files.items())
        # Where the old folder may still be there, only an exact copy of it is no mistake.
        sure = not is_uri(old) and not is_there(Path(old))
        enough = len(files) // 2 + 1 if sure else len(files)
        if files and same < enough:
            raise InvalidOption(
                f"{self.directory} indexes {old}, and {same} of {len(files)} files compared are "
                f"the same in {place.name}",
                fix="choose another --to, or add --rebuild to index this folder there instead",
            )
        with lock(self.directory):
            self.description = replace(read_description(self.directory), folder=place.name)
            self.description.write(self.directory)

    def _sample(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Some rows from all over the index."""
        known = self.known()
        return islice(known.items(), 0, _SAMPLE * (step := max(1, len(known) // _SAMPLE)), step)

    def reopen(self) -> None:
        """Look at the disk again: another process may have brought the index up to date."""
        self.description = read_description(self.directory)
        self._table = None

    def _read(self, action: Callable[[Table | Snapshot], T]) -> T:
        """Do it on the table; again if another process rewrote the table meanwhile."""
        while True:
            tried = self.description.generation
            try:
                return action(self._opened())
            except DamagedIndex as error:
                self.reopen()
                if self.description.generation != tried:
                    continue
                raise self._damaged(error) from error

    def _opened(self) -> Table | Snapshot:
        if self._table is None:
            about = self.description
            folder = table_folder(self.directory, about.generation)
            changed = damaged_files(folder, about.sealed, wholly=False)
            if changed:
                name = folder.relative_to(self.directory) / changed[0]
                raise DamagedIndex(self.directory, name.as_posix())
            copy = snapshot.read(self.directory, about)
            if copy is not None:
                self._table = copy
            else:
                self._table = Table(self.directory, about.generation, about.schema)
        return self._table

    def _damaged(self, error: DamagedIndex) -> DamagedIndex:
        fix = f"{self.update_command()} --verify, which embeds again what is damaged"
        return DamagedIndex(self.directory, error.what, fix=fix)

    def update_command(self) -> str:
        """The command that brings the index up to date."""
        words = ["ume", "index", str(self.folder).removeprefix(TABLE), "--to", str(self.directory)]
        return shlex.join(words + (["--ray"] if is_table(self.description.folder) else []))


def _narrow(kind: str | None, under: str, since: str | None, until: str | None) -> Narrow:
    return Narrow(kind, under, check_date(since, "since"), check_date(until, "until"))


def has_index(directory: Path) -> bool:
    """Whether a directory is described as an index, readable or not.

    Raises:
        InvalidOption: the operating system does not say.
    """
    try:
        (directory / about_file.NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # `exists` would say no to that, and a new index be made
        raise disk_error(error, directory / about_file.NAME) from error
    return True


def check_target(directory: Path, *, rebuild: bool = False) -> None:
    """Refuse to put an index where other files are, or rows whose description is gone.

    Args:
        directory: of the index.
        rebuild: rows that are there do not count.

    Raises:
        InvalidOption: with the fix.
        DamagedIndex: nothing says any more which model made the rows.
    """
    if is_local(directory) and directory.is_file():
        raise InvalidOption(f"{directory} is a file", fix="choose another --to")
    names = {path.name for path in entries(directory)}
    if about_file.NAME not in names and names - _OURS:
        raise InvalidOption(
            f"{directory} holds other files ({min(names - _OURS)})", fix="choose another --to"
        )
    if about_file.NAME not in names and not rebuild and has_rows(directory):
        raise DamagedIndex(
            directory,
            f"{about_file.NAME} is gone",
            fix=f"ume index FOLDER --to {directory} --rebuild, with the --model and --mode it had",
        )


@contextmanager
def lock(directory: Path) -> Generator[None]:
    """Keep other processes from writing an index; a killed process leaves nothing locked.

    Raises:
        InvalidOption: another process is writing.
    """
    path = directory / _LOCK
    if not is_local(directory):
        from ume_r1.index.remote import lease

        with lease(directory, _LOCK):
            yield
        return
    held = FileLock(path, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise InvalidOption(
            f"another process is writing {directory}", fix="wait for it to finish"
        ) from error
    except OSError as error:
        raise disk_error(error, path) from error
    except NotImplementedError as error:
        raise InvalidOption(
            f"the file system of {directory} has no file locks", fix="put the index on another disk"
        ) from error
    try:
        yield
    finally:
        held.release()


def _digest(folder: Folder, name: str) -> str | None:
    try:
        return folder.digest(name)[0]
    except Unreadable:  # not there, or not to be read: not the same
        return None
