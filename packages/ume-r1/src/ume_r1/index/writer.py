"""Changing an index, as the only process that does: opening, repairing, tidying and sealing it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from ume_r1.index import snapshot
from ume_r1.index.description import Description, SealedFile, read_description
from ume_r1.index.disk import entries, is_local, link_tree, remove
from ume_r1.index.errors import DamagedIndex
from ume_r1.index.recall import recall
from ume_r1.index.rows import Row, renamed, to_arrow, vector_columns
from ume_r1.index.seal import damaged_files, seal, table_files
from ume_r1.index.snapshot import Snapshot, known_rows
from ume_r1.index.store import TEMPORARY, Index, lock
from ume_r1.index.table import ANN_ROWS, FOLDER, Table, copy_rows, has_table, table_folder

# Commits after which a growing table is rewritten, once it has doubled: manifests name all data
# files, so that their sum grows with the square of the commits.
_COMMITS = 256
# Rows that a search compares one by one beside the index, about 20 ms of it.
_UNINDEXED = 10_000
_READERS = timedelta(hours=1)  # that a search on an object store may take


@contextmanager
def writing(index: Index, *, verify: bool = False) -> Generator[Writer]:
    """Change an index, as the only process that does.

    Args:
        index: the index; it sees the changes at the end.
        verify: look at every stored byte first, not only at some of them.

    Raises:
        InvalidOption: another process is writing, or the disk refuses something.
    """
    with lock(index.directory):
        yield Writer(index.directory, verify=verify)
        index.reopen()


class Writer:
    """A table open for writing.

    Attributes:
        known: path -> (kind, digest) of every row.
        damaged: files of the index that were not as they were written; what could be read of them
            was kept, and the other rows are missing from `known`.
        recall: vector column -> recall@10 of the index that was made of it.
    """

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        self._directory = directory
        self._about = read_description(directory)
        self._schema = self._about.schema
        self._remove_leftovers()
        self.damaged: list[str] = []
        self._dirty = False  # whether files of the table are not sealed
        self._rows: Table | Snapshot = self._sound_table(verify)
        rows = len(self._rows)
        self.known = known_rows(self._rows)
        self._sound = rows  # rows known to be as they were written
        self._commits, self._tidied = 0, rows
        self._lost: list[str] = []
        self.recall: dict[str, float] = {}

    def fetch(self, paths: Sequence[str]) -> pa.Table:
        """The sound rows of these paths, in any order."""
        return self._table.fetch(paths)

    def put(self, rows: Sequence[Row]) -> None:
        """Insert or replace rows, in one commit."""
        if rows:
            self._put(to_arrow(rows, self._schema))

    def copy(self, rows: pa.Table, paths: Sequence[str]) -> None:
        """Insert or replace rows with the content of `rows` under other paths, in one commit."""
        if rows.num_rows:
            self._put(renamed(rows, paths))

    def remove(self, paths: Sequence[str]) -> None:
        """Delete rows; their bytes leave the disk at the end of the run."""
        if paths:
            self._table.remove(paths)
            self._dirty = True
            for path in paths:
                self.known.pop(path, None)

    def finish(self) -> list[str]:
        """Tidy, index and seal what is stored, and make sure that it is there.

        Returns:
            paths whose rows turned out damaged and are removed; usually none.

        Raises:
            InvalidOption: the disk refuses something.
            DamagedIndex: what was written cannot be read back.
        """
        if isinstance(self._rows, Snapshot):  # nothing was changed
            return self._lost
        remote = not is_local(self._directory)
        large = len(self.known) >= ANN_ROWS
        # Two rows of one path: a commit that was made although it reported a failure.
        untidy = not large and not remote and self._table.untidy()
        if len(self._table) != len(self.known) or untidy:
            self._rewrite()
        if remote and self._table.scattered():
            self._table.optimize(_READERS)
        if large and self._stale():
            self._optimize()
        elif self._dirty:
            self._check()
            self._describe(self._sealed(self._about.sealed))
        elif not remote and snapshot.lacks(self._directory, self._about):
            self._describe(self._sealed(self._about.sealed))
        self._dirty = False
        return self._lost

    def _stale(self) -> bool:
        """Whether a large table has many small data files, or many rows without an index."""
        missing = self._table.indexed()
        wanted = vector_columns(self._about.mode)
        without = max(missing.get(column, len(self.known)) for column in wanted)
        return without > _UNINDEXED or self._table.scattered()

    def _optimize(self) -> None:
        """Compact and index a large table: in a copy, so that searches of this one go on.

        LanceDB's files never change, and the copy shares them by links. It drops deleted rows where
        they are a tenth of a data file; `_rewrite` drops all, and takes as long as the table is.
        """
        old, generation = self._table, self._about.generation + 1
        remote = not is_local(self._directory)
        if remote:  # in place: readers of what is dropped have an hour
            new = old
        elif link_tree(old.folder, table_folder(self._directory, generation)):
            new = Table(self._directory, generation, self._schema)
        else:  # a file system without links
            new = Table(self._directory, generation, self._schema, create=True)
            copy_rows(old.pages(), new)
        keep = _READERS if remote else timedelta(0)
        if new.scattered():
            new.optimize(keep)
            self._sound = 0
        for column in vector_columns(self._about.mode):
            missing, rows = new.indexed().get(column), len(new)
            if missing is None or 2 * missing > rows:
                new.make_index(column)
                self.recall[column] = recall(new, column)
        if any(new.indexed().values()):
            new.optimize(keep)
            self._sound = 0
        self._rows = new
        self._check()
        if remote:
            self._describe(self._sealed({}))
        else:
            self._switch(self._sealed(self._about.sealed))
        self._tidied, self._commits = len(self.known), 0

    def _put(self, rows: pa.Table) -> None:
        paths = rows["path"].to_pylist()
        if any(path in self.known for path in paths):
            self._table.put(rows)
        else:
            self._table.add(rows)
        kinds, digests = rows["kind"].to_pylist(), rows["digest"].to_pylist()
        self.known.extend(zip(paths, zip(kinds, digests, strict=True), strict=True))
        self._dirty = True
        self._commits += 1
        if self._commits > _COMMITS and len(self.known) > 2 * self._tidied:
            self._rewrite()

    @property
    def _table(self) -> Table:
        """The table; opened when there is something to write, where reading goes without."""
        if isinstance(self._rows, Snapshot):
            self._rows = Table(self._directory, self._about.generation, self._schema)
        return self._rows

    def _sound_table(self, verify: bool) -> Table | Snapshot:
        """The table, without the rows that are not as they were written."""
        about = self._about
        folder = table_folder(self._directory, about.generation)
        changed = damaged_files(folder, about.sealed, wholly=verify)
        if not has_table(folder):
            self._dirty = True
            self.damaged = [f"{FOLDER}/{folder.name}"] if about.sealed else []
            if about.sealed:
                self._describe(replace(about, sealed={}, snapshot=None))
            return Table(self._directory, about.generation, self._schema, create=True)
        copy = None if changed or verify else snapshot.read(self._directory, about)
        if copy is not None:
            return copy
        if not changed:
            try:
                table = Table(self._directory, about.generation, self._schema)
                # Files that no seal vouches for were written by a run that did not end.
                here = is_local(self._directory)
                self._dirty = here and not set(table_files(folder)) <= set(about.sealed)
                known_rows(table)
                checked = self._dirty or verify
                if not checked or not any(lost for _, lost in table.pages()):
                    return table
            except DamagedIndex:
                if not is_local(self._directory):
                    raise  # nothing is copied to this disk to be repaired
                # found out below, where it does no harm
        self.damaged = [f"{FOLDER}/{folder.name}/{name}" for name in changed or ["data"]]
        self._dirty = True
        from ume_r1.index.salvage import salvage

        salvage(self._directory, about)
        table = Table(self._directory, about.generation + 1, self._schema)
        self._switch(replace(about, generation=about.generation + 1, sealed={}, snapshot=None))
        return table

    def _rewrite(self) -> None:
        """Copy the sound rows into a new table, and remove the old one with all that it held."""
        generation = self._about.generation + 1
        new = Table(self._directory, generation, self._schema, create=True)
        lost = copy_rows(self._table.pages(), new)
        new.add(self._schema.empty_table())  # a second manifest: one may get damaged
        for path in lost:
            self.known.pop(path, None)
        self._lost += lost
        self._rows, self._sound = new, 0
        self._check()
        self._switch(self._sealed({}))
        self._dirty = False
        self._sound = self._tidied = len(self.known)
        self._commits = 0

    def _check(self) -> None:
        """Read back what was written, past every cache of the library."""
        self._rows = Table(self._directory, self._table.generation, self._schema)
        stored = known_rows(self._table)
        lost = [path for _, paths in self._table.pages(self._sound) for path in paths]
        if stored != self.known or lost:
            raise DamagedIndex(
                self._directory,
                "what was written cannot be read back",
                fix="check the disk, then run the same command again",
            )

    def _sealed(self, before: dict[str, SealedFile]) -> Description:
        """The description of the table as it is now; `before` are files not to be read again."""
        generation = self._table.generation
        if not is_local(self._directory):
            return replace(self._about, generation=generation, sealed={}, snapshot=None)
        sealed = seal(table_folder(self._directory, generation), before)
        copy = snapshot.write(self._directory, self._table, sealed)
        return replace(self._about, generation=generation, sealed=sealed, snapshot=copy)

    def _switch(self, about: Description) -> None:
        old = table_folder(self._directory, self._about.generation)
        self._describe(about)
        remove(old)

    def _describe(self, about: Description) -> None:
        about.write(self._directory)
        self._about = about

    def _remove_leftovers(self) -> None:
        """What killed runs, older formats and rewritten tables left beside the table in use."""
        used = table_folder(self._directory, self._about.generation)
        for path in entries(self._directory / FOLDER):
            if path != used:
                remove(path)
        for name in TEMPORARY:
            remove(self._directory / name)
