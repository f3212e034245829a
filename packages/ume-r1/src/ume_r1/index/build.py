"""Bringing an index up to date with its folder."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from itertools import chain, groupby, islice
from pathlib import PurePosixPath

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, Video
from ume_core.limits import Limits
from ume_core.media import load_video, open_image
from ume_core.pdf import count_pages, draw_page, split_page
from ume_r1.files import item_from_bytes, kind_of
from ume_r1.index.dates import date_of
from ume_r1.index.disk import absolute
from ume_r1.index.folders import Folder, FolderLike, folder_at
from ume_r1.index.listing import EMPTY, Listing
from ume_r1.index.pages import Pages, by_file, file_of
from ume_r1.index.reading import Content, Unreadable
from ume_r1.index.rows import Row
from ume_r1.index.seen import Seen, Stamp
from ume_r1.index.shelf import Shelf
from ume_r1.index.store import Index
from ume_r1.index.table import PAGE
from ume_r1.index.writer import Writer, writing

# Files embedded together: what a kill can cost, or two seconds where that is more. Gen takes
# seconds an item, so that it commits more often.
_CHUNK = {"disc": 64, "gen": 8, "both": 8}
_CHUNK_BYTES = 64 * 1024 * 1024  # of files held at a time; a larger file is held alone
_COPIES = 1024  # rows copied in one commit
_HANDFUL = 5  # removals that are never too many
_COMMIT_SECONDS = 2.0  # between commits: with a quick model, a chunk is done sooner
_SECONDS = 30  # between writings of the cache of file times

Progress = Callable[[int, int], None]
Source = Embedder | Callable[[], Embedder]
# A file without a row of its content: its kind, its digest (None where it was not read yet), and
# its stamp.
_Fresh = tuple[str, "str | None", int, int, int]


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
        unsettled: files that changed in the last seconds, and are left for later.
        recall: vector column -> recall@10 of the index for approximate search that was made of it,
            against exact search.
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
    unsettled: list[str] = field(default_factory=list[str])
    recall: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class _Held:
    """What is to be embedded next, as it was read."""

    item: Item
    digest: str
    date: str
    stamp: Stamp


def build_index(
    index: Index,
    folder: FolderLike,
    model: Source,
    *,
    max_new_tokens: int | None = None,
    prune: bool = False,
    verify: bool = False,
    settle: float = 0,
    progress: Progress = lambda done, total: None,
) -> BuildReport:
    """Embed what is new or changed, copy what only moved, remove what is deleted.

    Every chunk is committed as it is done, so an interrupted run continues where it stopped.
    A row is removed on evidence alone: what cannot be listed or read, and what was in folders that
    are empty now, keeps its row.

    Args:
        index: the index.
        folder: the indexed folder: a path, or the URI of one on an object store.
        model: an embedder of the index's signature, or a function that loads it, called when the
            first file is to be embedded.
        max_new_tokens: budget of gen.
        prune: remove the rows of deleted files also if they are most of the index, and those of
            files in folders that are empty now.
        verify: check every stored byte first, not only a part of a large index.
        settle: seconds that a file must have been as it is; one that changed since may still be
            being written, and is left as it was indexed.
        progress: called with (files done, files).

    Raises:
        InvalidOption: the folder cannot be read, another process is writing, or the disk refuses
            something.
        SignatureMismatch: the loaded model's vectors do not compare with the stored ones.
    """
    place = folder_at(folder)
    listing = place.list(absolute(index.directory))
    with writing(index, verify=verify) as writer:
        run = _Run(index, place, listing, writer, model, max_new_tokens, progress)
        try:
            run.update(prune, settle)
        except BaseException:
            with suppress(InvalidOption):  # another error is under way
                run.store()
                run.seen.write()
            raise
        run.seen.write()
    return run.report


class _Run:
    """One run: which files stand, which are copied, embedded, removed or kept."""

    def __init__(
        self,
        index: Index,
        folder: Folder,
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
        self._before = writer.known.copy()
        self._there: Shelf[tuple[()]] = Shelf()  # what the folder holds, by the names of rows
        self._total = len(listing.files)
        self._replaced: set[str] = set()  # rows whose files certainly have another content now
        self._done = 0
        self._written = self._committed = time.monotonic()
        self._chunk: dict[str, _Held] = {}
        self._chunk_bytes = 0
        self._waiting: list[tuple[Row, Stamp]] = []  # embedded and not stored yet

    def update(self, prune: bool, settle: float) -> None:
        """Do everything, in an order in which nothing is overwritten that is still to be copied."""
        fresh = self._compare(settle)
        copied = self._copy(fresh)
        self._embed(fresh, copied)
        self._remove(copied, prune)
        for path in self._writer.finish():
            self.report.skipped[path] = "its row was damaged and is removed; run again to embed it"
        self.report.recall = self._writer.recall
        self.seen.keep_only(self._writer.known)

    def _compare(self, settle: float) -> Shelf[_Fresh]:
        """Find the files whose content is not what their rows hold."""
        fresh: Shelf[_Fresh] = Shelf("kind", "digest", "size", "mtime_ns", "ctime_ns")
        pages = by_file(chain(self._before, (path for path, _ in self.seen.digests())))
        for file in self._listing.files:
            kind = kind_of(PurePosixPath(file)) or ""
            known = pages.get(file, [file])
            try:
                stamp = self._folder.stamp(file)
                digests = (self.seen.unchanged(row, stamp) for row in known)
                seen = next((digest for digest in digests if digest is not None), None)
                if settle and seen is None and stamp.is_younger(settle):
                    self.report.unsettled.append(file)
                    self._there.extend((row, ()) for row in known)
                    self._advance()
                    continue
                if kind == "pdf":
                    kind = "image"
                    rows, stamp = self._pages(file, seen, stamp)
                    self._total += len(rows) - 1
                else:
                    rows, stamp = self._content(file, seen, stamp)
            except Unreadable as error:
                self._skip(file, error, known)
                continue
            for path, digest in rows.items():
                self._there[path] = ()
                if digest is not None and self._writer.known.get(path) == (kind, digest):
                    self.seen.put(path, digest, stamp)
                    self.report.unchanged += 1
                    self._advance()
                else:
                    fresh[path] = (kind, digest, *astuple(stamp))
        for path, _ in self.seen.digests():
            lost = path not in self._before and path not in self._there
            if lost and self._listing.unsure(file_of(path)):
                self.report.skipped[path] = "its row was damaged, and it cannot be found to repair"
        return fresh

    def _content(
        self, file: str, seen: str | None, stamp: Stamp
    ) -> tuple[Mapping[str, str | None], Stamp]:
        """The one row that a file has: name -> digest."""
        # Without rows there is nothing to compare: files are read once, to be embedded. So are new
        # files that are costly to read.
        if seen is None and len(self._before) and (self._folder.near or file in self._before):
            seen, stamp = self._folder.digest(file)
        return {file: seen}, stamp

    def _pages(
        self, file: str, seen: str | None, stamp: Stamp
    ) -> tuple[Mapping[str, str | None], Stamp]:
        """The rows that a PDF has, a page each: name -> digest; `seen` is that of one of them."""
        if seen is not None:
            return Pages.of(seen).rows(file), stamp
        for _, content in self._folder.contents([file]):
            if isinstance(content, Unreadable):
                raise content
            return _pages_of(content).rows(file), content.stamp
        raise Unreadable("it is not there")

    def _copy(self, fresh: Shelf[_Fresh]) -> Shelf[tuple[str]]:
        """Rows of content that is indexed under another name.

        New names come first: a copy that overwrites a row could be the end of what another needs.

        Returns:
            file that was copied -> where from.
        """
        sources: Shelf[tuple[str, int]] = Shelf("source", "replaces")
        for path, (kind, digest, *_) in fresh.items():
            source = None if digest is None else self._before.find(kind=kind, digest=digest)
            if source is not None:
                sources[path] = (source, int(path in self._before))
        copied: Shelf[tuple[str]] = Shelf("source")
        for replaces in (0, 1):
            order = ((path, s) for path, (s, r) in sources.items() if r == replaces)
            while some := dict(islice(order, _COPIES)):
                self._copy_some(some, fresh, copied)
        self.report.moved = len(copied)
        return copied

    def _copy_some(
        self, sources: dict[str, str], fresh: Shelf[_Fresh], copied: Shelf[tuple[str]]
    ) -> None:
        rows = self._writer.fetch(sorted(set(sources.values())))
        contents = zip(rows["kind"].to_pylist(), rows["digest"].to_pylist(), strict=True)
        held = {content: place for place, content in enumerate(contents)}
        paths = [path for path in sources if fresh[path][:2] in held]
        self._writer.copy(rows.take([held[fresh[path][:2]] for path in paths]), paths)
        for path in paths:
            _, digest, *stamp = fresh[path]
            self.seen.put(path, digest or "", Stamp(*stamp))
            copied[path] = (sources[path],)
        self._advance(len(paths))

    def _embed(self, fresh: Shelf[_Fresh], copied: Shelf[tuple[str]]) -> None:
        left = (path for path in fresh if path not in copied)
        waiting: deque[list[str]] = deque()

        def files() -> Iterator[str]:
            for file, paths in groupby(left, file_of):
                waiting.append(list(paths))
                yield file

        for file, content in self._folder.contents(files()):
            paths = waiting.popleft()
            try:
                if isinstance(content, Unreadable):
                    raise content
                is_pdf = kind_of(PurePosixPath(file)) == "pdf"
                pages = _pages_of(content) if is_pdf else None
            except Unreadable as error:
                for path in paths:
                    self._skip(path, error)
                continue
            for path in paths:
                kind, digest, *_ = fresh[path]
                if digest is not None or not self._copy_late(path, kind, content, copied):
                    self._take(path, kind, content, pages)
        self._commit()
        self.store()

    def _take(self, path: str, kind: str, content: Content, pages: Pages | None) -> None:
        """Put a file or page into the chunk that is embedded next."""
        _, page = split_page(path)
        data, digest = content.data, content.digest
        try:
            if pages is not None and page is not None:
                data = draw_page(content.data, page, "it", Limits())
                digest = pages.digest(page)
            item = item_from_bytes(data, kind, path, Limits())
            self._refuse_early(item)
        except UmeError as error:
            self._skip(path, Unreadable(_reason(str(error)), replaced=True))
            return
        if self._chunk and self._chunk_bytes + len(data) > _CHUNK_BYTES:
            self._commit()
        date = date_of(kind, data, content.stamp.mtime_ns)
        self._chunk[path] = _Held(item, digest, date, content.stamp)
        self._chunk_bytes += len(data)
        if len(self._chunk) == _CHUNK[self._index.description.mode]:
            self._commit()

    def _copy_late(self, path: str, kind: str, content: Content, copied: Shelf[tuple[str]]) -> bool:
        """Copy the row of a content that turned out to be indexed when it was read."""
        source = self._before.find(kind=kind, digest=content.digest)
        if source is None:
            return False
        rows = self._writer.fetch([source])
        if not rows.num_rows or rows["digest"][0].as_py() != content.digest:
            return False
        self._writer.copy(rows, [path])
        self.seen.put(path, content.digest, content.stamp)
        copied[path] = (source,)
        self.report.moved += 1
        self._advance()
        return True

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

    def _commit(self) -> None:
        """Embed these files, and store them when it is time."""
        chunk, self._chunk, self._chunk_bytes = self._chunk, {}, 0
        if not chunk:
            return
        mode = self._index.description.mode
        result = self._load().embed(
            [held.item for held in chunk.values()],
            mode=mode,
            max_new_tokens=self._max_new_tokens,
            on_error="record",
        )
        done = 0
        for i, ((path, held), record) in enumerate(zip(chunk.items(), result.records, strict=True)):
            if record.status == "failed":
                reason = _reason(record.reason or "it cannot be embedded")
                self._skip(path, Unreadable(reason, replaced=True))
                continue
            row = Row(
                path=path,
                digest=held.digest,
                kind=held.item.modality,
                date=held.date,
                status=record.status,
                thinking=record.thinking,
                summary=record.summary,
                disc=None if result.disc is None else result.disc[i],
                gen=None if result.gen is None else result.gen[i],
            )
            self._waiting.append((row, held.stamp))
            done += 1
        if len(self._waiting) >= PAGE or time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self.store()
        self._advance(done)

    def store(self) -> None:
        """Store the rows that wait: in few commits where a model is quick, lest those grow."""
        rows = [row for row, _ in self._waiting]
        self._writer.put(rows)
        for row, stamp in self._waiting:
            if self.seen.digest(row.path) == row.digest and row.path not in self._before:
                self.report.repaired.append(row.path)
            self.seen.put(row.path, row.digest, stamp)
        self.report.embedded += len(rows)
        self._waiting = []
        self._committed = time.monotonic()
        if time.monotonic() - self._written > _SECONDS:
            began = time.monotonic()
            self.seen.write()
            self._written = time.monotonic()
            self._written += 20 * (self._written - began)  # of a large index, less often

    def _load(self) -> Embedder:
        if self._embedder is None:
            self._embedder = self._model if isinstance(self._model, Embedder) else self._model()
            self._index.require(self._embedder.signature(self._index.description.mode))
        return self._embedder

    def _remove(self, copied: Shelf[tuple[str]], prune: bool) -> None:
        """Remove the rows of deleted and replaced files, if there is evidence."""
        lost: list[str] = []
        moved: list[str] = []
        for path in self._before:
            if path in self._there or path in self._replaced or path in self.report.kept:
                continue  # its file is there
            unsure = self._listing.unsure(file_of(path))
            if unsure is None or (prune and unsure[1] == EMPTY):
                (lost if copied.find(source=path) is None else moved).append(path)
            else:
                where, reason = unsure
                self.report.kept[path] = f"{where or 'the folder'}: {reason}"
        lost += sorted(self._replaced)
        if not prune and len(lost) > _HANDFUL and 2 * len(lost) > len(self._before):
            reason = f"{len(lost)} of {len(self._before)} items would be removed. Fix: if that is "
            self.report.kept |= dict.fromkeys(lost, f"{reason}right, add --prune")
            lost = []
        self.report.removed = len(set(lost) - self._replaced)
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


def _pages_of(content: Content) -> Pages:
    try:
        return Pages(content.digest, count_pages(content.data, "it", Limits()))
    except UmeError as error:
        raise Unreadable(str(error), replaced=True) from error


def _reason(text: str) -> str:
    """An error without the index in the batch; the file's name stands before it."""
    return re.sub(r"^the bytes\b", "it", re.sub(r"^item \d+: ", "", text))
