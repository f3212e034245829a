"""The LanceDB table of an index: every call to the library is in this file.

A table only grows, by one commit per chunk, and deleted rows stay in its files. What ends that is
`copy_rows`: a new table with the rows that count, after which the old one is removed whole.
LanceDB's own `optimize` keeps deleted rows on disk until they are a tenth of a data file (tried
with 0.40: one of 200 stays).
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ume_core.results import Vectors
from ume_r1.index.disk import absolute, entries, is_local, remove
from ume_r1.index.errors import DamagedIndex, library_errors
from ume_r1.index.rows import Narrow, checked, matrix, quoted
from ume_r1.index.shelf import Shelf

FOLDER = "lance"
# Rows of one data file of a rewritten table: what is lost if a file is, and read at a time.
PAGE = 4096
_LARGE_FILE = 1024 * 1024  # rows of a data file that LanceDB's `optimize` makes
_SCATTERED = 20  # data files beyond those, when LanceDB's documentation asks for `optimize`
_SLACK = 8  # small data files beyond the least number, before a table is rewritten
_KEY = "path"
# Rows from which on searches are approximate.
ANN_ROWS = 100_000
# Of IVF_RQ, whose partitions have about 8,192 rows: partitions that are searched, and candidates
# whose whole vectors are compared, for each row that is wanted. `python -m tools.scale` has recall
# and times.
_PROBES, _REFINE = 20, 10
Checked: TypeAlias = tuple[pa.Table, list[str]]  # sound rows, paths of the others
Found: TypeAlias = "tuple[list[dict[str, Any]], Vectors]"  # rows without vectors, and one kind's


def table_folder(directory: Path, generation: int) -> Path:
    """Where the table of this generation lies in an index directory."""
    return directory / FOLDER / f"{_name(generation)}.lance"


def table_numbers(directory: Path) -> list[int]:
    """Generations of the tables in an index directory, leftovers included."""
    found = (re.fullmatch(r"items-(\d+)\.lance", p.name) for p in entries(directory / FOLDER))
    return [int(match[1]) for match in found if match]


def has_rows(directory: Path) -> bool:
    """Whether any table in an index directory has data files: more than a creation leaves."""
    folders = (table_folder(directory, number) / "data" for number in table_numbers(directory))
    return any(entries(folder) for folder in folders)


def has_table(folder: Path) -> bool:
    """Whether a table was created there: its first commit was made."""
    return any(path.suffix == ".manifest" for path in entries(folder / "_versions"))


class Table:
    """A table that was opened or created.

    Raises (all methods):
        InvalidOption: the operating system refused something.
        DamagedIndex: what is stored cannot be read.
    """

    def __init__(
        self, directory: Path, generation: int, schema: pa.Schema, *, create: bool = False
    ) -> None:
        """Open the table.

        Args:
            directory: of the index.
            generation: the table's number.
            schema: its columns.
            create: make it, in place of whatever is there.
        """
        # Lance reports every table it creates as a warning on standard error.
        os.environ.setdefault("LANCEDB_LOG", "error")
        import lancedb

        self.generation, self.folder = generation, table_folder(directory, generation)
        self.schema = schema
        self._directory = directory
        self._unindexed: dict[str, int] | None = None
        with self._errors():
            options = None if is_local(directory) else _storage_options()
            database = lancedb.connect(absolute(directory / FOLDER), storage_options=options)
            if create:
                remove(self.folder)
                self._table: Any = database.create_table(_name(generation), schema=schema)
            else:
                self._table = database.open_table(_name(generation))
                if not self._table.schema.equals(schema):
                    raise ValueError("its columns are not those of this index")

    def _errors(self) -> Any:
        return library_errors(self._directory, f"{FOLDER}/{self.folder.name}")

    def __len__(self) -> int:
        with self._errors():
            return int(self._table.count_rows())

    def cells(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """The cells of these columns, a tuple per row; `PAGE` rows are held at a time."""
        with self._errors():
            query = self._table.search().select(list(names)).limit(None)
            for batch in query.to_batches(PAGE):
                yield from zip(*(batch[name].to_pylist() for name in names), strict=True)

    def pages(self, start: int = 0) -> Iterator[Checked]:
        """All rows from `start` on, `PAGE` at a time (see `checked`)."""
        for offset in range(start, len(self), PAGE):
            yield self.page(offset, PAGE)

    def page(self, offset: int, count: int) -> Checked:
        """Rows `offset` to `offset + count`; reads no data files but theirs."""
        with self._errors():
            rows = self._table.search().limit(count).offset(offset).to_arrow()
            return checked(rows.select(self.schema.names))

    def fetch(self, paths: Sequence[str]) -> pa.Table:
        """The sound rows of these paths, in any order."""
        if not paths:
            return self.schema.empty_table()
        with self._errors():
            found = self._table.search().where(_in(paths)).limit(len(paths) + 1).to_arrow()
            return checked(found.select(self.schema.names))[0]

    def nearest(
        self, vector: Vectors, column: str, top: int, narrow: Narrow, *, exact: bool = False
    ) -> Found:
        """The `top` rows most similar to a unit vector (dimensions,), best first.

        Args:
            vector: the unit vector.
            column: `disc` or `gen`.
            top: how many at most.
            narrow: the rows to look at.
            exact: compare every row, also where there is an index of the vectors.

        Returns:
            rows without vectors, each with its `score`, the cosine; and their vectors.

        Raises:
            DamagedIndex: one of them is not as it was written.
        """
        approximate = not exact and column in self.indexed()
        with self._errors():
            query = self._query(vector, column, narrow).limit(top)
            if approximate:
                # Estimates of the index choose ten candidates a row; their own vectors decide.
                query = query.nprobes(_PROBES).refine_factor(_REFINE)
            else:
                query = query.bypass_vector_index()
            found = query.to_arrow()
        if approximate and found.num_rows < min(top, len(self)):
            return self.nearest(vector, column, top, narrow, exact=True)  # few rows fit
        with self._errors():
            rows, lost = checked(found.select(self.schema.names))
            vectors = matrix(rows[column])
            texts = rows.select(self._texts).to_pylist()
        if lost:
            raise DamagedIndex(self._directory, f"the row of {lost[0]}")
        scores = vectors @ np.asarray(vector, np.float32)
        order = np.argsort(-scores, kind="stable")
        return [texts[n] | {"score": float(scores[n])} for n in order], vectors[order]

    def scores(self, vector: Vectors, column: str, narrow: Narrow) -> dict[str, float]:
        """The cosine of every row, by path; see `nearest`."""
        with self._errors():
            query = self._query(vector, column, narrow).bypass_vector_index()
            found = query.select([_KEY, "_distance"]).limit(max(1, len(self))).to_arrow()
            paths, distances = (found[name].to_pylist() for name in (_KEY, "_distance"))
        return {path: 1 - far for path, far in zip(paths, distances, strict=True)}

    def _query(self, vector: Vectors, column: str, narrow: Narrow) -> Any:
        query = self._table.search(vector.tolist(), vector_column_name=column)
        if narrow != Narrow():  # before the search: after it, a strict filter would leave few rows
            query = query.where(narrow.condition(), prefilter=True)
        return query.distance_type("dot")

    def has(self, path: str) -> bool:
        """Whether it holds a row of this path."""
        with self._errors():
            return self._table.count_rows(_in([path])) > 0

    def rows(self, paths: Sequence[str], column: str) -> Found:
        """The rows of these paths in their order, without vectors; and their vectors.

        Raises:
            DamagedIndex: one of them is not as it was written.
        """
        rows = self.fetch(paths)
        numbers = {path: number for number, path in enumerate(rows[_KEY].to_pylist())}
        for path in paths:
            if path not in numbers:
                raise DamagedIndex(self._directory, f"the row of {path}")
        places = [numbers[path] for path in paths]
        texts = rows.select(self._texts).to_pylist()
        return [texts[place] for place in places], matrix(rows[column])[places]

    @property
    def _texts(self) -> list[str]:
        return [f.name for f in self.schema if f.type == pa.string()]

    def indexed(self) -> dict[str, int]:
        """Vector column -> rows that its index lacks, of the columns that have one."""
        if self._unindexed is None:
            with self._errors():
                found = {index.columns[0]: index.name for index in self._table.list_indices()}
                stats = {c: self._table.index_stats(name) for c, name in found.items()}
            self._unindexed = {c: s.num_unindexed_rows for c, s in stats.items() if s is not None}
        return self._unindexed

    def make_index(self, column: str) -> None:
        """Index a vector column for approximate search by dot product, in place of any other."""
        from lancedb.index import IvfRq

        with self._errors():
            # Never one of the key: https://github.com/lancedb/lancedb/issues/3177
            self._table.create_index(column, config=IvfRq(distance_type="dot"), replace=True)
        self._unindexed = None

    def optimize(self, keep: timedelta = timedelta(0)) -> None:
        """Merge small data files, index new rows, and drop what no row needs; see `copy_rows`.

        Args:
            keep: how long other processes may have been reading what is dropped.
        """
        with self._errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other readers; see above
            self._table.optimize(cleanup_older_than=keep, delete_unverified=not keep)
        self._unindexed = None

    def add(self, rows: pa.Table) -> None:
        """Append rows of paths that the table does not hold, in one commit."""
        with self._errors():
            self._table.add(rows)
        self._unindexed = None

    def put(self, rows: pa.Table) -> None:
        """Insert rows, or replace those of their paths, in one commit."""
        with self._errors():
            merge = self._table.merge_insert(_KEY)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def remove(self, paths: Sequence[str]) -> None:
        """Delete rows, in commits of a thousand."""
        for start in range(0, len(paths), 1000):
            with self._errors():
                self._table.delete(_in(paths[start : start + 1000]))

    def checkout(self, version: int) -> None:
        """Read the table as it was after this commit; for reading only."""
        with self._errors():
            self._table.checkout(version)

    def fragments(self) -> int:
        """Data files in use."""
        with self._errors():
            return int(self._table.stats()["fragment_stats"]["num_fragments"])

    def scattered(self) -> bool:
        """Whether a large table has more small data files than it should."""
        return self.fragments() > len(self) / _LARGE_FILE + _SCATTERED

    def untidy(self) -> bool:
        """Whether deleted rows, leftovers of killed commits or many small files are on disk."""
        fragments = self.fragments()
        stored, deleted = (entries(self.folder / name) for name in ("data", "_deletions"))
        least = math.ceil(len(self) / PAGE)
        return bool(deleted) or len(stored) != fragments or fragments > least + _SLACK


def copy_rows(pages: Iterable[Checked], to: Table) -> list[str]:
    """Append the sound rows, the first of each path; returns the paths of the unsound ones."""
    seen: Shelf[tuple[()]] = Shelf()
    unsound: list[str] = []
    for rows, lost in pages:
        unsound += lost
        first: list[bool] = []
        for path in rows[_KEY].to_pylist():
            first.append(path not in seen)
            seen[path] = ()
        if any(first):
            to.add(rows.filter(pa.array(first, pa.bool_())))
    return unsound


def _storage_options() -> dict[str, str]:
    """What LanceDB does not find in the environment, where it has the rest as AWS names it."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {"allow_http": "true"} if address.startswith("http://") else {}


def _name(generation: int) -> str:
    return f"items-{generation}"


def _in(paths: Sequence[str]) -> str:
    return f"{_KEY} IN ({', '.join(map(quoted, paths))})"
