"""The first step, in Ray tasks: reading items where the worker is, and asking what to do with each.

Files and URLs are opened here, on the workers, under the policy that came with the task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import ray

from ume_core.errors import InvalidItem, MediaError, UmeError
from ume_core.fetch import Access, read_source
from ume_core.foreign import is_undecoded, undecoded_source
from ume_core.items import Text
from ume_core.pdf import INSTALL, can_draw, is_pdf
from ume_r1.files import item_from_bytes, kind_of
from ume_r1.index.dates import date_of
from ume_r1.index.folders import folder_at
from ume_r1.index.pages import data_of, file_of, rows_in
from ume_r1.index.reading import Content, Unreadable
from ume_ray.blocks import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    EMBED,
    FAILED,
    SAME,
    UNCHANGED,
    ReadItem,
    fatal,
    to_table,
)
from ume_ray.columns import Columns
from ume_ray.ledger import content_key, row_key

_STATES = (EMBED, SAME, UNCHANGED)  # by the ledger's answers


def read_files(batch: pa.Table, folder: str, access: Access, ledger: Any, signature: str) -> Any:
    """Read the files of a folder, given by `name` and `kind`; yields tables of `READ`.

    Args:
        batch: the files; of PDFs whole ones, all whose pages are drawn, or pages.
        folder: path or URI of the folder.
        access: the limits; the policy is the caller's own choice of this folder.
        ledger: the actor.
        signature: the digest of the signature of the vectors.
    """
    place = folder_at(folder)
    if place.near and not Path(folder).is_dir():
        yield fatal(f"{ray.util.get_node_ip_address()} has no folder {folder}")
        return
    kinds = dict(zip(batch["name"].to_pylist(), batch["kind"].to_pylist(), strict=True))
    wanted: dict[str, list[str]] = {}
    for name in kinds:
        wanted.setdefault(file_of(name), []).append(name)
    if any(map(is_pdf, wanted)) and not can_draw():
        yield fatal(f"{ray.util.get_node_ip_address()} lacks what draws PDFs ({INSTALL})")
        return

    def items() -> Iterator[ReadItem]:
        for file, content in place.contents(wanted):
            try:
                if isinstance(content, Unreadable):
                    raise content
                rows = rows_in(file, content, wanted[file])
            except Unreadable as error:
                yield _failed(file, error.reason, replaced=error.replaced)
                continue
            for name, digest in rows.items():
                found = ReadItem(name, kinds.get(name, "image"), digest, stamp=content.stamp)
                _fill_file(found, content, access)
                yield found

    yield from _chunks(items(), ledger, signature)


def _fill_file(found: ReadItem, content: Content, access: Access) -> None:
    """Take a file's content, or the page of it that the item is."""
    try:
        data = data_of(found.name, content)
        found.date = date_of(found.kind, data, content.stamp.mtime_ns)
        _fill(found, data, access)
    except UmeError as error:
        found.state, found.reason, found.replaced = FAILED, str(error), True


def read_rows(
    batch: pa.Table, columns: Columns, access: Access, ledger: Any, signature: str
) -> Any:
    """Read the items of a dataset's rows; yields tables of `READ`.

    Args:
        batch: rows with the columns named.
        columns: which columns hold what.
        access: what a path in a row may name, and the sizes that items may have.
        ledger: the actor.
        signature: the digest of the signature of the vectors.
    """

    def items() -> Iterator[ReadItem]:
        for row in batch.select(columns.used).to_pylist():
            yield _read_row(row, columns, access)

    yield from _chunks(items(), ledger, signature)


def _read_row(row: dict[str, Any], columns: Columns, access: Access) -> ReadItem:
    name = row[columns.name]
    if name is None or name == "":
        return _failed("", f"a row has no {columns.name}", replaced=False)
    found = ReadItem(str(name))
    try:
        _fill_row(found, row, columns, access)
    except UmeError as error:
        found.state, found.reason, found.replaced = FAILED, str(error), True
    return found


def _fill_row(found: ReadItem, row: dict[str, Any], columns: Columns, access: Access) -> None:
    """Read what the row holds.

    Raises:
        UmeError: it holds nothing, or what it names cannot be read.
    """
    text = row[columns.text] if columns.text else None
    image = row[columns.image] if columns.image else None
    path = row[columns.path] if columns.path else None
    kinds: set[str] = set()
    if image is not None:
        source = undecoded_source(image) if is_undecoded(image) else image
        found.media = read_source(source, access)
        kinds.add("image")
    if path:
        if found.media is not None:
            raise InvalidItem(
                f"it has both {columns.image} and {columns.path}", fix="leave one of them null"
            )
        kind = kind_of(PurePosixPath(path.split("?")[0]))
        if kind is None:
            raise InvalidItem(
                f"its {columns.path} {path!r} does not end as a picture, clip or text does",
                fix="give it the suffix of its kind, such as .png, .mp4 or .txt",
            )
        if "://" not in path and not Path(path).is_absolute():
            raise MediaError(
                f"its {columns.path} {path!r} is relative, and workers run in other directories",
                fix="write absolute paths or URLs",
            )
        found.kind = "image" if kind == "pdf" else kind  # its only page, as it names none
        _fill(found, read_source(path, access), access)
        kinds.add(found.kind)
    if text is not None:
        found.text = (found.text or "") + Text(text).text
        kinds.add("text")
    if not kinds or (kinds == {"text"} and not (found.text or "").strip()):
        empty = " and ".join(columns.contents)
        raise InvalidItem(f"there is nothing to embed in {empty}", fix="drop such rows")
    found.kind = "+".join(sorted(kinds))
    found.digest = _digest(found)
    if "image" in kinds and found.media is not None:
        found.date = date_of("image", found.media, -1)


def _fill(found: ReadItem, data: bytes, access: Access) -> None:
    """Take the bytes of a file of a kind."""
    if found.kind == "text":
        found.text = item_from_bytes(data, "text", found.name, access.limits).text
    else:
        found.media = data


def _digest(item: ReadItem) -> str:
    """SHA-256 of a content; of one part alone, of its bytes, as of a file's."""
    text = None if item.text is None else item.text.encode("utf-8", "surrogatepass")
    if text is None or item.media is None:
        return hashlib.sha256(item.media if text is None else text).hexdigest()  # type: ignore[arg-type]
    return hashlib.sha256(len(item.media).to_bytes(8, "little") + item.media + text).hexdigest()


def _failed(name: str, reason: str, *, replaced: bool) -> ReadItem:
    return ReadItem(name, state=FAILED, reason=reason, replaced=replaced)


def _chunks(items: Iterable[ReadItem], ledger: Any, signature: str) -> Iterator[pa.Table]:
    """Tables of some items each, those left out that need no vector of their own."""
    chunk: list[ReadItem] = []
    held = 0
    for item in items:
        if chunk and (len(chunk) == CHUNK_ROWS or held + item.size > CHUNK_BYTES):
            yield _claimed(chunk, ledger, signature)
            chunk, held = [], 0
        chunk.append(item)
        held += item.size
    if chunk:
        yield _claimed(chunk, ledger, signature)


def _claimed(chunk: list[ReadItem], ledger: Any, signature: str) -> pa.Table:
    asked = [item for item in chunk if item.state == EMBED]
    rows = [row_key(item.name, item.kind, item.digest, signature) for item in asked]
    contents = [content_key(item.kind, item.digest, signature) for item in asked]
    if asked:
        answers = ray.get(ledger.claim.remote(rows, contents, _owners(asked)))
        for item, answer in zip(asked, answers, strict=True):
            item.state = _STATES[answer]
    return to_table(chunk)


def _owners(items: list[ReadItem]) -> list[bytes]:
    """Who claims each item: the same when a task that was killed runs again."""
    task = ray.get_runtime_context().get_task_id() or ""
    return [row_key(item.name, "", "", task) for item in items]
