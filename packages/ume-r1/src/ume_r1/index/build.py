"""Bringing an index up to date with its folder."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from itertools import islice
from pathlib import PurePosixPath

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, Video
from ume_core.limits import Limits
from ume_core.media import load_video, open_image
from ume_r1.files import item_from_bytes, kind_of
from ume_r1.index.crew import Crew, Done
from ume_r1.index.dates import date_of
from ume_r1.index.disk import absolute
from ume_r1.index.folders import Folder, FolderLike, folder_at
from ume_r1.index.listing import EMPTY, Listing
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
_ROUNDS = 4  # of a crew over files whose content another file had, and lost

Progress = Callable[[int, int], None]
Source = Embedder | Callable[[], Embedder]
# A file without a row of its content: its kind, its digest (None where it was not read yet), and
# its stamp.
_Fresh = tuple[str, "str | None", int, int, int]


@dataclass
class BuildReport:
    """What a run did.

    Attributes:
        embedded: files embedded, those repaired included.
        unchanged: files whose content was indexed already.
        moved: files whose content was indexed under another name.
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
    crew: Crew | None = None,
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
        crew: embeds in place of `model`, which is not loaded then.

    Raises:
        InvalidOption: the folder cannot be read, another process is writing, or the disk refuses
            something.
        SignatureMismatch: the loaded model's vectors do not compare with the stored ones.
    """
    place = folder_at(folder)
    listing = place.list(absolute(index.directory))
    with writing(index, verify=verify) as writer:
        run = _Run(index, place, listing, writer, model, max_new_tokens, progress, crew)
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
        crew: Crew | None,
    ) -> None:
        self.report = BuildReport(
            damaged=writer.damaged, unread=listing.unread, skipped=dict(listing.unlisted)
        )
        self.seen = Seen(index.directory)
        self._index, self._folder, self._listing, self._writer = index, folder, listing, writer
        self._model, self._max_new_tokens, self._progress = model, max_new_tokens, progress
        self._embedder: Embedder | None = None
        self._crew = crew
        self._before = writer.known.copy()
        self._replaced: set[str] = set()  # rows whose files certainly have another content now
        self._done = 0
        self._written = self._committed = time.monotonic()
        self._waiting: list[tuple[Row, Stamp]] = []  # embedded and not stored yet

    def update(self, prune: bool, settle: float) -> None:
        """Do everything, in an order in which nothing is overwritten that is still to be copied."""
        fresh = self._compare(settle)
        if self._crew is None:
            copied = self._copy(fresh)
            self._embed(fresh, copied)
        else:
            copied = self._gather(self._crew, fresh)
        self._remove(copied, prune)
        for path in self._writer.finish():
            self.report.skipped[path] = "its row was damaged and is removed; run again to embed it"
        self.report.recall = self._writer.recall
        self.seen.keep_only(self._writer.known)

    def _compare(self, settle: float) -> Shelf[_Fresh]:
        """Find the files whose content is not what their rows hold."""
        fresh: Shelf[_Fresh] = Shelf("kind", "digest", "size", "mtime_ns", "ctime_ns")
        # Without rows there is nothing to compare: files are read once, to be embedded. So are new
        # files that are costly to read; and a crew reads what it is given.
        reads = len(self._before) > 0 and self._crew is None
        for path in self._listing.files:
            kind = kind_of(PurePosixPath(path)) or ""
            try:
                stamp = self._folder.stamp(path)
                digest = self.seen.unchanged(path, stamp)
                if settle and digest is None and stamp.is_younger(settle):
                    self.report.unsettled.append(path)
                    self._advance()
                    continue
                if digest is None and reads and (self._folder.near or path in self._before):
                    digest, stamp = self._folder.digest(path)
            except Unreadable as error:
                self._skip(path, error)
                continue
            if digest is not None and self._writer.known.get(path) == (kind, digest):
                self.seen.put(path, digest, stamp)
                self.report.unchanged += 1
                self._advance()
            else:
                fresh[path] = (kind, digest, *astuple(stamp))
        for path, _ in self.seen.digests():
            lost = path not in self._before and path not in self._listing.files
            if lost and self._listing.unsure(path):
                self.report.skipped[path] = "its row was damaged, and it cannot be found to repair"
        return fresh

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
        chunk: dict[str, tuple[Content, Item]] = {}
        held = 0
        left = (path for path in fresh if path not in copied)
        for path, content in self._folder.contents(left):
            kind, digest, *_ = fresh[path]
            if isinstance(content, Unreadable):
                self._skip(path, content)
                continue
            if digest is None and self._copy_late(path, kind, content, copied):
                continue
            try:
                item = item_from_bytes(content.data, kind, path, Limits())
                self._refuse_early(item)
            except UmeError as error:
                self._skip(path, Unreadable(_reason(str(error)), replaced=True))
                continue
            if chunk and held + len(content.data) > _CHUNK_BYTES:
                self._commit(chunk)
                held = 0
            chunk[path] = content, item
            held += len(content.data)
            if len(chunk) == _CHUNK[self._index.description.mode]:
                self._commit(chunk)
                held = 0
        self._commit(chunk)
        self.store()

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

    def _commit(self, chunk: dict[str, tuple[Content, Item]]) -> None:
        """Embed and store these files, and empty the chunk."""
        if not chunk:
            return
        mode = self._index.description.mode
        result = self._load().embed(
            [item for _, item in chunk.values()],
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
            content, item = chunk[path]
            rows.append(
                Row(
                    path=path,
                    digest=content.digest,
                    kind=item.modality,
                    date=date_of(item.modality, content.data, content.stamp.mtime_ns),
                    status=record.status,
                    thinking=record.thinking,
                    summary=record.summary,
                    disc=None if result.disc is None else result.disc[i],
                    gen=None if result.gen is None else result.gen[i],
                )
            )
        self._waiting += [(row, chunk[row.path][0].stamp) for row in rows]
        chunk.clear()
        if len(self._waiting) >= PAGE or time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self.store()
        self._advance(len(rows))

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

    def _gather(self, crew: Crew, fresh: Shelf[_Fresh]) -> Shelf[tuple[str]]:
        """Store what a crew embeds; returns the files whose rows were copied, as `_copy` does."""
        copied: Shelf[tuple[str]] = Shelf("source")
        hopeless: dict[tuple[str, str], str] = {}
        left, again = fresh, Shelf[tuple[()]]()
        for _ in range(_ROUNDS):
            files = ((path, fresh[path][0]) for path in left)
            waiting: Shelf[tuple[()]] = Shelf()
            for done in crew.embed(
                self._folder, files, self._writer.known.items(), lambda path: path not in fresh
            ):
                self._take(done, fresh, waiting)
                hopeless |= done.hopeless
            again = self._share(waiting, fresh, copied, hopeless)
            if not again:
                break
            left = again
        for path in again:
            self._skip(path, Unreadable("it changes while it is read"))
        self.report.moved = len(copied)
        return copied

    def _take(self, done: Done, fresh: Shelf[_Fresh], waiting: Shelf[tuple[()]]) -> None:
        """Store what is done, and note what is to be copied."""
        self._waiting += [(row, done.stamps[row.path]) for row in done.rows]
        self.store()
        self._advance(len(done.rows))
        for same in done.unchanged:
            self.seen.put(same.name, same.digest, done.stamps[same.name])
            self.report.unchanged += 1
            self._advance()
        for same in done.same:
            fresh[same.name] = (same.kind, same.digest, *astuple(done.stamps[same.name]))
            waiting[same.name] = ()
        for path, error in done.failed.items():
            self._skip(path, Unreadable(_reason(error.reason), replaced=error.replaced))

    def _share(
        self,
        waiting: Shelf[tuple[()]],
        fresh: Shelf[_Fresh],
        copied: Shelf[tuple[str]],
        hopeless: dict[tuple[str, str], str],
    ) -> Shelf[tuple[()]]:
        """Copy rows for files of the same content; returns those that found none."""
        again: Shelf[tuple[()]] = Shelf()
        sources: dict[str, str] = {}
        for path in waiting:
            kind, digest, *_ = fresh[path]
            source = self._writer.known.find(kind=kind, digest=digest or "")
            if source is not None:
                sources[path] = source
            elif (reason := hopeless.get((kind, digest or ""))) is not None:
                self._skip(path, Unreadable(_reason(reason), replaced=True))
            else:
                again[path] = ()
            if len(sources) == _COPIES:
                self._copy_some(sources, fresh, copied)
                sources = {}
        if sources:
            self._copy_some(sources, fresh, copied)
        return again

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
            if path in self._listing.files:
                continue
            unsure = self._listing.unsure(path)
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

    def _skip(self, path: str, error: Unreadable) -> None:
        self.report.skipped[path if path.isprintable() else ascii(path)[1:-1]] = error.reason
        if path in self._before:
            if error.replaced:
                self._replaced.add(path)
            else:
                self.report.kept[path] = f"{path}: {error.reason}"
        self._advance()

    def _advance(self, files: int = 1) -> None:
        self._done += files
        self._progress(self._done, len(self._listing.files))


def _reason(text: str) -> str:
    """An error without the index in the batch; the file's name stands before it."""
    return re.sub(r"^the bytes\b", "it", re.sub(r"^item \d+: ", "", text))
