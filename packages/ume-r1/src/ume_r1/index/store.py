"""The index on disk: `ume-index.json` (what the vectors are) and a LanceDB table of items.

Every write is one LanceDB commit keyed by path, so that a process killed at any moment leaves
either the old or the new rows, and never two rows for one file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ume_core.errors import InvalidOption, SignatureMismatch
from ume_core.results import Vectors
from ume_core.signature import Mode, Signature, check_mode

_META = "ume-index.json"
_TABLE = "items"
_VERSION = 2
# Load options that decide vectors and are stored with them.
OPTIONS = ("prompt", "text_only", "media_order", "frame_lists", "dtype", "thinking")


@dataclass(frozen=True)
class Row:
    """One indexed file.

    Attributes:
        path: relative to the indexed folder. digest: SHA-256 of its content.
        size, mtime_ns: of the file when it was read; unchanged means not read again.
    """

    path: str
    digest: str
    kind: str
    size: int
    mtime_ns: int
    status: str
    thinking: str
    summary: str
    disc: Vectors | None
    gen: Vectors | None


@dataclass(frozen=True)
class Hit:
    """One search result; `score` is the cosine similarity."""

    path: Path
    kind: str
    score: float
    thinking: str
    summary: str


@dataclass(frozen=True)
class Description:
    """What an index holds, as stored in `ume-index.json`.

    Attributes:
        folder: the indexed folder. model: as it was asked for. mode: of the stored vectors.
        options: load options that decide vectors (see `OPTIONS`).
    """

    folder: str
    model: str
    mode: Mode
    signature: Signature
    options: dict[str, str]


def check_target(directory: Path, folder: str, mode: Mode) -> None:
    """What can be told about an index directory without loading a model.

    Raises:
        InvalidOption: it is something else, or indexes another folder.
        SignatureMismatch: it holds another mode's vectors.
    """
    if (directory / _META).is_file():
        stored = read_description(directory)
        if stored.folder != folder:
            raise InvalidOption(
                f"{directory} indexes {stored.folder}", fix="choose another --to, or delete it"
            )
        if stored.mode != mode:
            raise SignatureMismatch(
                f"{directory} holds {stored.mode} vectors",
                fix=f"use --mode {stored.mode}, or index into a new directory",
            )
        return
    if directory.exists() and not directory.is_dir():
        raise InvalidOption(f"{directory} is a file", fix="choose another --to")
    names = {p.name for p in directory.iterdir()} if directory.is_dir() else set()
    if names - {"lance", ".lock"}:
        raise InvalidOption(f"{directory} is not empty and no index", fix="choose another --to")


def read_description(directory: Path) -> Description:
    """What `ume-index.json` says.

    Raises:
        InvalidOption: the directory holds no index, or a damaged one.
    """
    fix = f"create one: ume index FOLDER --to {directory}"
    try:
        stored = json.loads((directory / _META).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOption(f"{directory} is no index", fix=fix) from error
    if not isinstance(stored, dict) or stored.get("version") != _VERSION:
        raise InvalidOption(f"{directory} was written by another version", fix="index it again")
    try:
        return Description(
            str(stored["folder"]),
            str(stored["model"]),
            check_mode(stored["mode"]),
            Signature.from_dict(stored["signature"]),
            {name: str(stored["options"][name]) for name in OPTIONS},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidOption(f"{directory / _META} is damaged", fix="index it again") from error


class Index:
    """An index directory, opened for reading or writing."""

    def __init__(self, directory: Path, description: Description, *, create: bool = False) -> None:
        # Lance reports every table it creates as a warning on standard error.
        os.environ.setdefault("LANCEDB_LOG", "error")
        import lancedb

        self.directory = directory
        self.description = description
        try:
            database = lancedb.connect(str(directory / "lance"))
            if _TABLE in database.list_tables().tables:
                self._table = database.open_table(_TABLE)
            elif create:
                self._table = database.create_table(_TABLE, schema=self.schema, mode="overwrite")
            else:
                raise FileNotFoundError("its table is missing")
        except Exception as error:  # Lance raises RuntimeError, ValueError, OSError…
            raise InvalidOption(
                f"{directory} is damaged: {error}", fix=f"delete {directory} and index again"
            ) from error

    @classmethod
    def open(cls, directory: Path) -> Index:
        """Open an existing index.

        Raises:
            InvalidOption: the directory holds no index.
        """
        return cls(directory, read_description(directory))

    @classmethod
    def create(cls, directory: Path, description: Description) -> Index:
        """Open the index there, or create it.

        Raises:
            SignatureMismatch: it holds vectors of another model, mode or setting.
            InvalidOption: it indexes another folder, or other files are in the way.
        """
        check_target(directory, description.folder, description.mode)
        if (directory / _META).is_file():
            index = cls(directory, read_description(directory), create=True)
            index.require(description.signature)
            return index
        directory.mkdir(parents=True, exist_ok=True)
        # The table first: where the description is, the index is whole. A table without one was
        # left by a process killed here, perhaps of another mode.
        shutil.rmtree(directory / "lance", ignore_errors=True)
        index = cls(directory, description, create=True)
        stored = {
            "version": _VERSION,
            "folder": description.folder,
            "model": description.model,
            "mode": description.mode,
            "signature": description.signature.to_dict(),
            "options": description.options,
        }
        temporary = directory / f".{_META}.tmp"
        temporary.write_text(json.dumps(stored, indent=2) + "\n", "utf-8")
        os.replace(temporary, directory / _META)
        return index

    def require(self, signature: Signature) -> None:
        """Refuse vectors that do not compare with the stored ones.

        Raises:
            SignatureMismatch: with the fix.
        """
        found = self.description.signature.differences(signature)
        if found:
            stored = self.description
            raise SignatureMismatch(
                f"{self.directory} holds other vectors ({'; '.join(found)})",
                fix=f"use --model {stored.model} --mode {stored.mode}, "
                "or index into a new directory",
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process may write; a killed one leaves no lock behind."""
        with (self.directory / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidOption(
                    f"another process is writing {self.directory}", fix="wait for it to finish"
                ) from error
            yield

    def known(self) -> dict[str, tuple[str, int, int]]:
        """path -> (digest, size, mtime_ns) of every row."""
        columns = ["path", "digest", "size", "mtime_ns"]
        rows = self._table.search().select(columns).limit(None).to_arrow().to_pylist()
        return {r["path"]: (r["digest"], r["size"], r["mtime_ns"]) for r in rows}

    def fetch(self, paths: list[str]) -> list[dict[str, Any]]:
        """Full rows of these paths."""
        return self._where(paths) if paths else []

    def put(self, rows: list[Row]) -> None:
        """Insert or replace rows, in one commit."""
        if rows:
            table = pa.Table.from_pylist([self._plain(r) for r in rows], schema=self.schema)
            self.put_table(table)

    def put_table(self, table: pa.Table) -> None:
        """Insert or replace the rows of an Arrow table of this index's schema."""
        merge = self._table.merge_insert("path")
        merge.when_matched_update_all().when_not_matched_insert_all().execute(table)

    def remove(self, paths: list[str]) -> None:
        """Delete rows, in commits of a thousand."""
        for start in range(0, len(paths), 1000):
            self._table.delete(_in(paths[start : start + 1000]))

    def __len__(self) -> int:
        return self._table.count_rows()

    def search(self, vector: Vectors, mode: str, top: int) -> list[Hit]:
        """The `top` most similar files to a unit vector (dimensions,), best first; exact."""
        if len(self) == 0:
            return []
        query: Any = self._table.search(vector.tolist(), vector_column_name=mode)
        folder = Path(self.description.folder)
        # A foreign index must not lead a reader out of its folder.
        found = query.distance_type("dot").limit(top).to_arrow().to_pylist()
        # LanceDB's dot distance is 1 - cosine for unit vectors.
        return [
            Hit(folder / r["path"], r["kind"], 1 - r["_distance"], r["thinking"], r["summary"])
            for r in found
            if not Path(r["path"]).is_absolute() and ".." not in Path(r["path"]).parts
        ]

    def _where(self, paths: list[str]) -> list[dict[str, Any]]:
        return self._table.search().where(_in(paths)).limit(len(paths)).to_arrow().to_pylist()

    def _plain(self, row: Row) -> dict[str, Any]:
        plain = {k: v for k, v in vars(row).items() if k not in ("disc", "gen")}
        for name in self._vector_columns():
            vector = getattr(row, name)
            plain[name] = np.asarray(vector, dtype=np.float32).tolist()
        return plain

    def _vector_columns(self) -> tuple[str, ...]:
        mode = self.description.mode
        return ("disc", "gen") if mode == "both" else (mode,)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        vector = pa.list_(pa.float32(), self.description.signature.dimensions)
        text = ("path", "digest", "kind", "status", "thinking", "summary")
        return pa.schema(
            [pa.field(name, pa.string()) for name in text]
            + [pa.field(name, pa.int64()) for name in ("size", "mtime_ns")]
            + [pa.field(name, vector) for name in self._vector_columns()]
        )


def _in(paths: list[str]) -> str:
    quoted = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
    return f"path IN ({quoted})"
