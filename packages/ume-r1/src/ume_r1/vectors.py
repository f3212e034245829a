"""Files of vectors: written as they come, so that an interrupted run goes on where it stopped.

While a run lasts, its rows are in an Arrow stream beside the file (`.NAME.part`), which is whole up
to the last chunk whatever happens. When all is done it becomes the file, in one step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ume_core.errors import InvalidOption
from ume_core.results import EmbeddingResult, Record
from ume_core.signature import Signature
from ume_r1.inputs import Entry
from ume_r1.output import json_line, valid_unicode
from ume_r1.rows import Chunk, described, vectors_of

_STAMP = "_stamp"
_RUN, _SIGNATURE = b"ume_run", b"ume_signature"
_TEXTS = ("id", "path", "text", "status", "reason", "thinking", "summary")
_COUNTS = ("prompt_tokens", "generated_tokens")


class VectorFile:
    """A file of vectors that is being written.

    Attributes:
        part: where the rows are until all are there.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        """Begin, or go on.

        Args:
            path: the file; its suffix is a key of `WRITERS`.
            run: what decides the rows besides the model and the items, as JSON values.

        Raises:
            InvalidOption: an interrupted run of other options left its rows there.
        """
        self.path, self.part = path, path.with_name(f".{path.name}.part")
        self._run = json.dumps(run, sort_keys=True).encode()
        self._batches: list[pa.RecordBatch] = []
        self._schema: pa.Schema | None = None
        self._sink: Any = None
        self._writer: Any = None
        if self.part.exists():
            self._read()
        self._done = {key for batch in self._batches for key in _keys(batch)}

    def has(self, entry: Entry) -> bool:
        """Whether an interrupted run left this entry's row, and its file is the same."""
        return _key(entry) in self._done

    def put(self, chunk: Chunk) -> None:
        """Write the rows of a chunk that did not fail; they are with the system then.

        Raises:
            InvalidOption: an interrupted run of another model left its rows there.
            OSError: the disk refuses them.
        """
        if chunk.result is None:
            return
        schema = _schema_of(chunk.result, self._run)
        if self._schema is not None and not schema.equals(self._schema, check_metadata=True):
            raise self._other()
        self._schema = schema
        if self._writer is None:
            self._sink = self.part.open("wb")
            self._writer = pa.ipc.new_stream(self._sink, schema)
            for batch in self._batches:
                self._writer.write_batch(batch)
        rows = [
            chunk.row(index) | {_STAMP: entry.stamp()}
            for index, entry in enumerate(chunk.entries)
            if chunk.records[index].status != "failed"
        ]
        self._batches.append(_batch(rows, schema))
        self._writer.write_batch(self._batches[-1])
        self._sink.flush()

    def close(self) -> None:
        """Leave the rows as they are, for a later run."""
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None

    def finish(self, entries: Sequence[Entry], failed: Mapping[str, Record]) -> None:
        """Write the file with the rows of these entries, in their order.

        Args:
            entries: all of them.
            failed: the records of those that were not put, by id.

        Raises:
            OSError: the disk refuses it.
        """
        self.close()
        assert self._schema is not None, "a row was put, or every entry failed"
        lacking = [entry for entry in entries if entry.id in failed]
        rows = [described(entry, failed[entry.id]) | {_STAMP: entry.stamp()} for entry in lacking]
        batches = [*self._batches, _batch(rows, self._schema)]
        table = pa.Table.from_batches(batches, self._schema)
        last = {key: number for number, key in enumerate(_keys(table))}
        order = [last[_key(entry)] for entry in entries]
        table = table.take(pa.array(order, pa.int64())).drop_columns([_STAMP])
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            WRITERS[self.path.suffix](table, temporary)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _read(self) -> None:
        """Take the rows of an interrupted run; the last chunk may be cut."""
        try:
            with pa.ipc.open_stream(pa.py_buffer(self.part.read_bytes())) as reader:
                self._schema = reader.schema
                while True:
                    self._batches.append(reader.read_next_batch())
        except (StopIteration, pa.ArrowException, OSError):
            pass
        if self._schema is None or not self._batches:
            self._schema = None
        elif (self._schema.metadata or {}).get(_RUN) != self._run:
            raise self._other()

    def _other(self) -> InvalidOption:
        return InvalidOption(
            f"{self.part} holds rows of an interrupted run with other options or another model",
            fix="repeat that command, or delete the file",
        )


def _key(entry: Entry) -> tuple[str, str]:
    return valid_unicode(entry.id), entry.stamp()


def _keys(rows: Any) -> list[tuple[str, str]]:
    return list(zip(rows["id"].to_pylist(), rows[_STAMP].to_pylist(), strict=True))


def _schema_of(result: EmbeddingResult, run: bytes) -> pa.Schema:
    """Columns of rows like these, the same whatever the items are."""
    fields = [pa.field(name, pa.string()) for name in _TEXTS]
    fields += [pa.field(name, pa.int32()) for name in _COUNTS]
    fields.append(pa.field("warnings", pa.list_(pa.string())))
    for name, vectors in vectors_of(result).items():
        kind = pa.list_(pa.float32(), vectors.shape[-1])
        fields.append(pa.field(name, kind if vectors.ndim == 2 else pa.list_(kind)))
    fields += [pa.field("signature", pa.string()), pa.field(_STAMP, pa.string())]
    signature = json.dumps(result.signature.to_dict()).encode()
    return pa.schema(fields, {_RUN: run, _SIGNATURE: signature})


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    for row in rows:
        for name in _TEXTS:
            row[name] = None if row[name] is None else valid_unicode(row[name])
    return pa.RecordBatch.from_pylist(rows, schema)


def _write_parquet(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows.replace_schema_metadata(_about(rows)), path)


def _write_jsonl(rows: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for batch in rows.to_batches(64):
            handle.writelines(json_line(row) + "\n" for row in batch.to_pylist())


def _write_npz(rows: pa.Table, path: Path) -> None:
    arrays: dict[str, Any] = {"ids": np.array(rows["id"].to_pylist())}
    signature = Signature.from_dict(json.loads(_about(rows)[_SIGNATURE]))
    names = [name for name in ("disc", "gen", "gen_samples") if name in rows.column_names]
    for name in names:
        cells = rows[name].to_pylist()
        shape = np.shape(next(cell for cell in cells if cell is not None))
        nothing = np.full(shape, np.nan, np.float32)
        arrays[name] = np.array([nothing if c is None else c for c in cells], np.float32)
    records = rows.drop_columns([*names, "signature"]).to_pylist()
    arrays["records"] = np.array([json.dumps(r, ensure_ascii=False) for r in records])
    arrays["signature"] = np.array(json.dumps(signature.to_dict()))
    with path.open("wb") as handle:
        np.savez(handle, **arrays)


def _about(rows: pa.Table) -> dict[bytes, bytes]:
    return {_SIGNATURE: rows.schema.metadata[_SIGNATURE]}


WRITERS = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".npz": _write_npz}
