"""Bringing an index up to date with its folder."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, Video
from ume_core.limits import Limits
from ume_core.media import load_video, open_image
from ume_core.pdf import count_pages, draw_page, split_page
from ume_r1.files import item_from_bytes, kind_of
from ume_r1.index.listing import EMPTY, Listing, list_folder
from ume_r1.index.pages import Pages, by_file, file_of
from ume_r1.index.reading import Content, Unreadable, digest_file, read_file, stamp_file
from ume_r1.index.rows import Row
from ume_r1.index.seen import Seen, Stamp
from ume_r1.index.store import Index
from ume_r1.index.writer import Writer, writing

# Files per commit: what a kill can cost. Gen takes seconds an item, so it commits more often.
_CHUNK = {"disc": 64, "gen": 8, "both": 8}
_CHUNK_BYTES = 64 * 1024 * 1024  # of files held at a time; a larger file is held alone
_COPIES = 1024  # rows copied in one commit
_HANDFUL = 5  # removals that are never too many
_SECONDS = 30  # between writings of the cache of file times

Progress = Callable[[int, int], None]
Source = Embedder | Callable[[], Embedder]


@dataclass
class BuildReport:
    """What a run did.

    Attributes:
        embedded: files embedded, those repaired included; each page of a PDF counts.
        unchanged: files and pages whose content was indexed already.
        moved: files and pages whose content was indexed under another name.
        removed: rows removed because their files are deleted.
        skipped: path of a file or folder -> why it is not indexed as it is now.
        kept: path of a row -> why it is kept although its file was not found.
        repaired: files embedded again because their rows were damaged.
        damaged: files of the index that were damaged when the run began.
        unread: suffix -> number of files of a kind that is not embedded.
    """

    embedded: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    repaired: list[str] = field(default_factory=list[str])
    damaged: list[str] = field(default_factory=list[str])
    unread: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class _Fresh:
    """A file or page without a row of its content; `digest` is None where it was not read yet."""

    kind: str
    digest: str | None
    stamp: Stamp


@dataclass(frozen=True)
class _Held:
    """What is to be embedded next, as it was read."""

    item: Item
    digest: str
    stamp: Stamp


def build_index(
    index: Index,
    folder: Path,
    model: Source,
    *,
    max_new_tokens: int | None = None,
    prune: bool = False,
    verify: bool = False,
    progress: Progress = lambda done, total: None,
) -> BuildReport:
    """Embed what is new or changed, copy what only moved, remove what is deleted.

    Every chunk is committed as it is done, so an interrupted run continues where it stopped.
    A row is removed on evidence alone: what cannot be listed or read, and what was in folders that
    are empty now, keeps its row.

    Args:
        index: the index.
        folder: the indexed folder.
        model: an embedder of the index's signature, or a function that loads it, called when the
            first file is to be embedded.
        max_new_tokens: budget of gen.
        prune: remove the rows of deleted files also if they are most of the index, and those of
            files in folders that are empty now.
        verify: check every stored byte first, not only a part of a large index.
        progress: called with (files done, files).

    Raises:
        InvalidOption: the folder cannot be read, another process is writing, or the disk refuses
            something.
        SignatureMismatch: the loaded model's vectors do not compare with the stored ones.
    """
    folder = folder.resolve()
    listing = list_folder(folder, index.directory.resolve())
    with writing(index, verify=verify) as writer:
        run = _Run(index, folder, listing, writer, model, max_new_tokens, progress)
        try:
            run.update(prune)
        except BaseException:
            with suppress(InvalidOption):  # only a cache, and another error is under way
                run.seen.write()
            raise
        run.seen.write()
    return run.report


class _Run:
    """One run: which files stand, which are copied, embedded, removed or kept."""

    def __init__(
        self,
        index: Index,
        folder: Path,
        listing: Listing,
        writer: Writer,
        model: Source,
        max_new_tokens: int | None,
        progress: Progress,
    ) -> None:
        self.report = BuildReport(
            damaged=writer.damaged, unread=listing.unread, skipped=dict(listing.unlisted)
        )
        self.seen = Seen(index.directory)
        self._index, self._folder, self._listing, self._writer = index, folder, listing, writer
        self._model, self._max_new_tokens, self._progress = model, max_new_tokens, progress
        self._embedder: Embedder | None = None
        self._before = dict(writer.known)
        self._there: set[str] = set()  # what the folder holds, by the names of rows
        self._total = len(listing.files)
        self._replaced: set[str] = set()  # rows whose files certainly have another content now
        self._open: tuple[str, Content, Pages] | None = None
        self._done = 0
        self._written = time.monotonic()

    def update(self, prune: bool) -> None:
        """Do everything, in an order in which nothing is overwritten that is still to be copied."""
        fresh = self._compare()
        places = {content: path for path, content in self._before.items()}
        sources = {
            path: places[file.kind, file.digest]
            for path, file in fresh.items()
            if file.digest is not None and (file.kind, file.digest) in places
        }
        copied = self._copy(sources, fresh)
        self._embed([path for path in fresh if path not in copied], fresh)
        self._remove({sources[path] for path in copied}, prune)
        for path in self._writer.finish():
            self.report.skipped[path] = "its row was damaged and is removed; run again to embed it"
        self.seen.keep_only(set(self._writer.known))

    def _compare(self) -> dict[str, _Fresh]:
        """Find the files whose content is not what their rows hold."""
        fresh: dict[str, _Fresh] = {}
        pages = by_file(self._before.keys() | self.seen.digests().keys())
        for file in self._listing.files:
            kind = kind_of(PurePosixPath(file)) or ""
            try:
                if kind == "pdf":
                    kind = "image"
                    rows, stamp = self._pages(file, pages.get(file, []))
                    self._total += len(rows) - 1
                else:
                    rows, stamp = self._content(file)
            except Unreadable as error:
                self._skip(file, error, pages.get(file, [file]))
                continue
            self._there.update(rows)
            for path, digest in rows.items():
                if digest is not None and self._writer.known.get(path) == (kind, digest):
                    self.seen.put(path, digest, stamp)
                    self.report.unchanged += 1
                    self._advance()
                else:
                    fresh[path] = _Fresh(kind, digest, stamp)
        for path in self.seen.digests().keys() - set(self._before) - self._there:
            if self._listing.unsure(file_of(path)):
                self.report.skipped[path] = "its row was damaged, and it cannot be found to repair"
        return fresh

    def _content(self, file: str) -> tuple[Mapping[str, str | None], Stamp]:
        """The one row that a file has: name -> digest."""
        stamp = stamp_file(self._folder, file)
        digest = self.seen.unchanged(file, stamp)
        # Without rows there is nothing to compare: files are read once, to be embedded.
        if digest is None and self._before:
            digest, stamp = digest_file(self._folder, file)
        return {file: digest}, stamp

    def _pages(self, file: str, known: list[str]) -> tuple[Mapping[str, str | None], Stamp]:
        """The rows that a PDF has, a page each: name -> digest; `known` are those of its name."""
        stamp = stamp_file(self._folder, file)
        for row in known:
            digest = self.seen.unchanged(row, stamp)
            if digest is not None:
                return Pages.of(digest).rows(file), stamp
        content, pages = self._read(file)
        return pages.rows(file), content.stamp

    def _read(self, file: str) -> tuple[Content, Pages]:
        """The content of a file, and what pages a PDF has; read once for pages in a row."""
        if self._open is None or self._open[0] != file:
            self._open = None  # not two at a time
            content = read_file(self._folder, file)
            count = 0
            if kind_of(PurePosixPath(file)) == "pdf":
                try:
                    count = count_pages(content.data, "it", Limits())
                except UmeError as error:
                    raise Unreadable(str(error), replaced=True) from error
            self._open = file, content, Pages(content.digest, count)
        return self._open[1:]

    def _copy(self, sources: dict[str, str], fresh: dict[str, _Fresh]) -> set[str]:
        """Rows of content that is indexed under another name; returns the files that were copied.

        New names come first: a copy that overwrites a row could be the end of what another needs.
        """
        copied: set[str] = set()
        order = sorted(sources, key=lambda path: (path in self._before, path))
        for start in range(0, len(order), _COPIES):
            rows = self._writer.fetch(sorted({sources[p] for p in order[start : start + _COPIES]}))
            held = {
                (kind, digest): index
                for index, (kind, digest) in enumerate(
                    zip(rows["kind"].to_pylist(), rows["digest"].to_pylist(), strict=True)
                )
            }
            paths = [
                path
                for path in order[start : start + _COPIES]
                if (fresh[path].kind, fresh[path].digest) in held
            ]
            taken = rows.take([held[fresh[p].kind, fresh[p].digest or ""] for p in paths])
            self._writer.copy(taken, paths)
            for path in paths:
                self.seen.put(path, fresh[path].digest or "", fresh[path].stamp)
            copied.update(paths)
            self._advance(len(paths))
        self.report.moved = len(copied)
        return copied

    def _embed(self, paths: list[str], fresh: dict[str, _Fresh]) -> None:
        chunk: dict[str, _Held] = {}
        held = 0
        for path in paths:
            file, page = split_page(path)
            try:
                content, pages = self._read(file)
                data, digest = content.data, content.digest
                if page is not None:
                    data = draw_page(content.data, page, "it", Limits())
                    digest = pages.digest(page)
                item = item_from_bytes(data, fresh[path].kind, path, Limits())
                self._refuse_early(item)
            except Unreadable as error:
                self._skip(path, error)
                continue
            except UmeError as error:
                self._skip(path, Unreadable(_reason(str(error)), replaced=True))
                continue
            if chunk and held + len(data) > _CHUNK_BYTES:
                self._commit(chunk)
                held = 0
            chunk[path] = _Held(item, digest, content.stamp)
            held += len(data)
            if len(chunk) == _CHUNK[self._index.description.mode]:
                self._commit(chunk)
                held = 0
        self._commit(chunk)
        self._open = None

    def _refuse_early(self, item: Item) -> None:
        """Find out what cannot be decoded before a model is loaded for it.

        Raises:
            UmeError: it cannot be decoded.
        """
        if self._embedder is not None or isinstance(self._model, Embedder):
            return
        for part in item.media:
            if isinstance(part, Image):
                open_image(part, Access())
            elif isinstance(part, Video):
                load_video(part, Access())

    def _commit(self, chunk: dict[str, _Held]) -> None:
        """Embed and store these files, and empty the chunk."""
        if not chunk:
            return
        mode = self._index.description.mode
        result = self._load().embed(
            [held.item for held in chunk.values()],
            mode=mode,
            max_new_tokens=self._max_new_tokens,
            on_error="record",
        )
        rows: list[Row] = []
        for i, (path, record) in enumerate(zip(chunk, result.records, strict=True)):
            if record.status == "failed":
                reason = _reason(record.reason or "it cannot be embedded")
                self._skip(path, Unreadable(reason, replaced=True))
                continue
            held = chunk[path]
            rows.append(
                Row(
                    path=path,
                    digest=held.digest,
                    kind=held.item.modality,
                    status=record.status,
                    thinking=record.thinking,
                    summary=record.summary,
                    disc=None if result.disc is None else result.disc[i],
                    gen=None if result.gen is None else result.gen[i],
                )
            )
        self._writer.put(rows)
        for row in rows:
            if self.seen.digest(row.path) == row.digest and row.path not in self._before:
                self.report.repaired.append(row.path)
            self.seen.put(row.path, row.digest, chunk[row.path].stamp)
        self.report.embedded += len(rows)
        self._advance(len(rows))
        chunk.clear()
        if time.monotonic() - self._written > _SECONDS:
            self.seen.write()
            self._written = time.monotonic()

    def _load(self) -> Embedder:
        if self._embedder is None:
            self._embedder = self._model if isinstance(self._model, Embedder) else self._model()
            self._index.require(self._embedder.signature(self._index.description.mode))
        return self._embedder

    def _remove(self, sources: set[str], prune: bool) -> None:
        """Remove the rows of deleted and replaced files, if there is evidence."""
        gone: list[str] = []
        for path in sorted(set(self._before) - self._there):
            if path in self._replaced or path in self.report.kept:  # its file is there
                continue
            unsure = self._listing.unsure(file_of(path))
            if unsure is None or (prune and unsure[1] == EMPTY):
                gone.append(path)
            else:
                where, reason = unsure
                self.report.kept[path] = f"{where or 'the folder'}: {reason}"
        lost = [path for path in gone if path not in sources] + sorted(self._replaced)
        if not prune and len(lost) > _HANDFUL and 2 * len(lost) > len(self._before):
            reason = f"{len(lost)} of {len(self._before)} items would be removed. Fix: if that is "
            self.report.kept |= dict.fromkeys(lost, f"{reason}right, add --prune")
            lost = []
        self.report.removed = len(set(lost) - self._replaced)
        moved = [path for path in gone if path in sources]
        self._writer.remove(sorted({*lost, *moved}))

    def _skip(self, path: str, error: Unreadable, rows: Sequence[str] | None = None) -> None:
        """Leave out a file or page; `rows` are those of a whole file, if it has others than one."""
        self.report.skipped[path if path.isprintable() else ascii(path)[1:-1]] = error.reason
        for row in rows or [path]:
            if row in self._before and error.replaced:
                self._replaced.add(row)
            elif row in self._before:
                self.report.kept[row] = f"{path}: {error.reason}"
        self._advance()

    def _advance(self, files: int = 1) -> None:
        self._done += files
        self._progress(self._done, self._total)


def _reason(text: str) -> str:
    """An error without the index in the batch; the file's name stands before it."""
    return re.sub(r"^the bytes\b", "it", re.sub(r"^item \d+: ", "", text))
