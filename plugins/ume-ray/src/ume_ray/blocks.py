"""What travels between the driver and the workers: Arrow tables, an item a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ume_core.items import Image, Item, Part, Text, Video
from ume_r1.index.crew import Done, Same
from ume_r1.index.pages import Pages, file_of
from ume_r1.index.reading import Unreadable
from ume_r1.index.rows import Row, matrix, vector_columns
from ume_r1.index.seen import Stamp

# States of an item on its way: to be embedded, and then `ok`, `forced` (see `Record`) or `failed`;
# or its content is stored under another name, or its row is stored as it is.
EMBED, FAILED, SAME, UNCHANGED = "embed", "failed", "same", "unchanged"
FATAL = "fatal"  # of a row that says why nothing can be embedded at all
CHUNK_ROWS = 64
CHUNK_BYTES = 32 * 1024 * 1024  # of content held at a time by whoever reads; a larger item is alone

_ABOUT = [
    ("name", pa.string()),  # a file's path in its folder, or a row's id
    ("kind", pa.string()),
    ("digest", pa.string()),
    ("date", pa.string()),
    ("state", pa.string()),
    ("reason", pa.string()),
    ("replaced", pa.bool_()),  # see `ume_r1.index.reading.Unreadable`
    ("size", pa.int64()),
    ("mtime_ns", pa.int64()),
    ("ctime_ns", pa.int64()),
]
READ = pa.schema([*_ABOUT, ("text", pa.large_string()), ("media", pa.large_binary())])
_ANSWER = [("thinking", pa.string()), ("summary", pa.string())]
_NO_STAMP = Stamp(-1, 0, 0)


def done_schema(mode: Any, dimensions: int) -> pa.Schema:
    """Columns of embedded items; `disc` and `gen` are null where nothing was embedded."""
    vectors = [(name, pa.list_(pa.float32(), dimensions)) for name in vector_columns(mode)]
    return pa.schema([*_ABOUT, *_ANSWER, *vectors])


@dataclass
class ReadItem:
    """An item that was read.

    Attributes:
        name: of the file, page or row.
        kind: its modality, as `Item.modality` has it.
        digest: of its content, hexadecimal; empty if it could not be read.
        date: see `ume_r1.index.dates.date_of`.
        state: `EMBED` or `FAILED`.
        reason: why it failed.
        replaced: whether it certainly is not what is stored under its name.
        stamp: of the file.
        text: its text, if it has one.
        media: the bytes of its picture or clip, if it has one.
    """

    name: str
    kind: str = ""
    digest: str = ""
    date: str = ""
    state: str = EMBED
    reason: str = ""
    replaced: bool = False
    stamp: Stamp = _NO_STAMP
    text: str | None = None
    media: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of its content, near enough."""
        return len(self.media or b"") + len(self.text or "")


def to_table(items: Sequence[ReadItem]) -> pa.Table:
    """Items that were read, without the content of those that are not to be embedded."""
    columns: dict[str, list[Any]] = {name: [] for name in READ.names}
    for item in items:
        kept = item.state == EMBED
        values = {
            **{n: getattr(item, n) for n in ("name", "kind", "digest", "date", "state", "reason")},
            "replaced": item.replaced, "size": item.stamp.size,
            "mtime_ns": item.stamp.mtime_ns, "ctime_ns": item.stamp.ctime_ns,
            "text": item.text if kept else None, "media": item.media if kept else None,
        }  # fmt: skip
        for name, value in values.items():
            columns[name].append(value)
    return pa.table(columns, schema=READ)


def fatal(reason: str) -> pa.Table:
    """The message that nothing can be embedded at all."""
    return to_table([ReadItem("", state=FATAL, reason=reason)])


def items_in(table: pa.Table) -> Iterator[tuple[int, Item]]:
    """The items of a table that are to be embedded, with their rows."""
    columns = {name: table[name] for name in ("state", "kind", "text", "media")}
    for row in range(table.num_rows):
        if columns["state"][row].as_py() != EMBED:
            continue
        parts: list[Part] = []
        media, text = columns["media"][row].as_py(), columns["text"][row].as_py()
        if media is not None:
            video = "video" in columns["kind"][row].as_py()
            parts.append(Video(media) if video else Image(media))
        if text is not None:
            parts.append(Text(text))
        yield row, Item(tuple(parts))


def from_table(table: pa.Table, into: Done) -> None:
    """Sort what a table says of its items."""
    columns = {n: table[n].to_pylist() for n in table.column_names if n not in ("disc", "gen")}
    embedded = [state not in (FAILED, SAME, UNCHANGED) for state in columns["state"]]
    whole = table.filter(pa.array(embedded, pa.bool_()))
    vectors = {name: matrix(whole[name]) for name in ("disc", "gen") if name in table.column_names}
    place = 0
    for row in range(table.num_rows):
        cell = {name: values[row] for name, values in columns.items()}
        name, kind, digest, state = (cell[n] for n in ("name", "kind", "digest", "state"))
        into.stamps[name] = Stamp(cell["size"], cell["mtime_ns"], cell["ctime_ns"])
        if ":" in digest:  # a page's, which tells how many its file has
            into.pages[file_of(name)] = Pages.of(digest).count
        if embedded[row]:
            of = {n: values[place].copy() for n, values in vectors.items()}
            place += 1
            texts: dict[str, str] = {n: cell[n] for n in ("date", "thinking", "summary")}
            disc, gen = (of.get(n) for n in ("disc", "gen"))
            into.rows.append(
                Row(
                    path=name, digest=digest, kind=kind, status=state, disc=disc, gen=gen, **texts
                )
            )  # fmt: skip
        elif state == FAILED:
            into.failed[name] = Unreadable(cell["reason"], replaced=cell["replaced"])
            if digest:
                into.hopeless[kind, digest] = cell["reason"]
        else:
            (into.same if state == SAME else into.unchanged).append(Same(name, kind, digest))
