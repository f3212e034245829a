"""Bringing an index up to date with its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple
from itertools import groupby, islice
from pathlib import PurePosixPath

from ume_core.errors import InvalidOption, UmeError
from ume_core.limits import Limits
from ume_core.pdf import split_page
from ume_r1.files import item_from_bytes, kind_of
from ume_r1.index.batches import Batches, Held, Source, reason_of
from ume_r1.index.crew import Crew, Done
from ume_r1.index.dates import date_of
from ume_r1.index.disk import absolute
from ume_r1.index.folders import Folder, FolderLike, folder_at
from ume_r1.index.listing import EMPTY, Listing
from ume_r1.index.pages import Pages, data_of, file_of, pages_in, rows_in, rows_of
from ume_r1.index.reading import Content, Unreadable
from ume_r1.index.report import BuildReport
from ume_r1.index.seen import Seen, Stamp
from ume_r1.index.shelf import Shelf
from ume_r1.index.store import Index
from ume_r1.index.writer import Writer, writing

_COPIES = 1024  # rows copied in one commit
_HANDFUL = 5  # removals that are never too many
_ROUNDS = 4  # of a crew over files whose content another file had, and lost

Progress = Callable[[int, int], None]
# A file or page without a row of its content: its kind, its digest, and its file's stamp. The
# digest is None where the file was not read yet; it may be a whole PDF then.
_Fresh = tuple[str, "str | None", int, int, int]


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
                run.batches.store()
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
        self.batches = Batches(
            index, writer, self.seen, model, max_new_tokens,
            skip=self._skip, stored=self._count_stored, advance=self._advance,
        )  # fmt: skip
        self._folder, self._listing, self._writer = folder, listing, writer
        self._progress, self._crew = progress, crew
        self._before = writer.known.copy()
        # Without rows there is nothing to compare: files are read once, to be embedded. So are
        # files that are costly to read; and a crew reads what it is given.
        self._reads_twice = folder.near and len(self._before) > 0 and crew is None
        self._counts: Shelf[tuple[int]] = Shelf("pages")  # of the PDFs that are there
        self._replaced: set[str] = set()  # rows whose files certainly have another content now
        self._done, self._total = 0, len(listing.files)

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
        for file in self._listing.files:
            try:
                stamp = self._folder.stamp(file)
                rows = self._unchanged(file, stamp)
                if rows is None and settle and stamp.is_younger(settle):
                    self.report.unsettled.append(file)
                    self._advance()
                    continue
                if rows is None:
                    rows, stamp = self._read(file, stamp)
            except Unreadable as error:
                self._skip(file, error)
                continue
            for path, digest in rows.items():
                if not self._stands(path, digest, stamp):
                    fresh[path] = (_kind(path), digest, *astuple(stamp))
        for path, _ in self.seen.digests():
            lost = path not in self._before and not self._is_there(path)
            if lost and self._listing.unsure(file_of(path)):
                self.report.skipped[path] = "its row was damaged, and it cannot be found to repair"
        return fresh

    def _unchanged(self, file: str, stamp: Stamp) -> Mapping[str, str | None] | None:
        """The rows that a file has, name -> digest, if it is as it was when it was indexed."""
        is_pdf = _kind(file) == "pdf"
        names = rows_of(file, self.seen.starting) if is_pdf else [file]
        digest = next((d for name in names if (d := self.seen.unchanged(name, stamp))), None)
        if digest is None:
            return None
        return self._counted(file, Pages.of(digest)) if is_pdf else {file: digest}

    def _read(self, file: str, stamp: Stamp) -> tuple[Mapping[str, str | None], Stamp]:
        """The rows that a changed file has, and its stamp; without a digest for later."""
        if not self._reads_twice:
            return {file: None}, stamp
        if _kind(file) != "pdf":
            digest, stamp = self._folder.digest(file)
            return {file: digest}, stamp
        ((_, content),) = self._folder.contents([file])
        if isinstance(content, Unreadable):
            raise content
        return self._counted(file, pages_in(content)), content.stamp

    def _counted(self, file: str, pages: Pages) -> Mapping[str, str]:
        """The rows of a PDF, whose pages are known from now on."""
        self._count(file, pages.count)
        return pages.rows(file)

    def _count(self, file: str, pages: int) -> None:
        self._total += pages - self._counts.get(file, (1,))[0]
        self._counts[file] = (pages,)

    def _stands(self, path: str, digest: str | None, stamp: Stamp) -> bool:
        """Whether the row of this name holds this content; noted if it does."""
        if digest is None or self._writer.known.get(path) != (_kind(path), digest):
            return False
        self.seen.put(path, digest, stamp)
        self.report.unchanged += 1
        self._advance()
        return True

    def _is_there(self, row: str) -> bool:
        """Whether the folder has the file or page of a row; so it has the pages nobody counted."""
        if row in self._listing.files:
            return True
        file, page = split_page(row)
        if page is None or file not in self._listing.files:
            return False
        return page <= self._counts.get(file, (page,))[0]

    def _copy(self, fresh: Shelf[_Fresh]) -> Shelf[tuple[str]]:
        """Rows of content that is indexed under another name; they are taken out of `fresh`.

        New names come first: a copy that overwrites a row could be the end of what another needs.

        Returns:
            file or page that was copied -> where from.
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
        return copied

    def _copy_some(
        self, sources: dict[str, str], fresh: Shelf[_Fresh], copied: Shelf[tuple[str]]
    ) -> None:
        rows = self._writer.fetch(sorted(set(sources.values())))
        contents = zip(rows["kind"].to_pylist(), rows["digest"].to_pylist(), strict=True)
        held = {content: place for place, content in enumerate(contents)}
        paths = [path for path in sources if fresh[path][:2] in held]
        if not paths:
            return
        self._writer.copy(rows.take([held[fresh[path][:2]] for path in paths]), paths)
        for path in paths:
            _, digest, *stamp = fresh.pop(path)
            self.seen.put(path, digest or "", Stamp(*stamp))
            copied[path] = (sources[path],)
        self.report.moved += len(paths)
        self._advance(len(paths))

    def _embed(self, fresh: Shelf[_Fresh], copied: Shelf[tuple[str]]) -> None:
        """Embed what is left, each file being read once; a PDF's pages are so one after another."""
        files = (file for file, _ in groupby(fresh, file_of))
        for file, content in self._folder.contents(files):
            names = [file] if file in fresh else rows_of(file, fresh.starting)
            wanted = {path: fresh.pop(path)[1] for path in names}
            try:
                if isinstance(content, Unreadable):
                    raise content
                rows = rows_in(file, content, wanted)
            except Unreadable as error:
                self._skip(file, error, len(wanted))
                continue
            if _kind(file) == "pdf" and file in wanted:
                self._count(file, len(rows))
            late = None in wanted.values()
            for path, digest in rows.items():
                if not (late and self._needs_no_model(path, digest, content.stamp, copied)):
                    self._hold(path, digest, content)
        self.batches.finish()

    def _needs_no_model(
        self, path: str, digest: str, stamp: Stamp, copied: Shelf[tuple[str]]
    ) -> bool:
        """Whether a content turned out to be indexed when it was read; its row is copied then."""
        if self._stands(path, digest, stamp):
            return True
        source = self._before.find(kind=_kind(path), digest=digest)
        if source is None:
            return False
        rows = self._writer.fetch([source])
        if not rows.num_rows or rows["digest"][0].as_py() != digest:
            return False
        self._writer.copy(rows, [path])
        self.seen.put(path, digest, stamp)
        copied[path] = (source,)
        self.report.moved += 1
        self._advance()
        return True

    def _hold(self, path: str, digest: str, content: Content) -> None:
        """Have a file or page embedded."""
        kind = _kind(path)
        try:
            data = data_of(path, content)
            item = item_from_bytes(data, kind, path, Limits())
            self.batches.refuse_early(item)
        except UmeError as error:
            self._skip(path, Unreadable(reason_of(str(error)), replaced=True))
            return
        date = date_of(kind, data, content.stamp.mtime_ns)
        self.batches.add(path, Held(item, len(data), digest, date, content.stamp))

    def _count_stored(self, path: str, digest: str) -> None:
        self.report.embedded += 1
        if self.seen.digest(path) == digest and path not in self._before:
            self.report.repaired.append(path)

    def _gather(self, crew: Crew, fresh: Shelf[_Fresh]) -> Shelf[tuple[str]]:
        """Store what a crew embeds; returns what was copied, as `_copy` does."""

        def lasting(row: str) -> bool:
            return row not in fresh and file_of(row) not in fresh

        copied: Shelf[tuple[str]] = Shelf("source")
        hopeless: dict[tuple[str, str], str] = {}
        left, again = fresh, Shelf[tuple[()]]()
        for _ in range(_ROUNDS):
            files = ((path, fresh[path][0]) for path in left)
            waiting: Shelf[tuple[()]] = Shelf()
            for done in crew.embed(self._folder, files, self._writer.known.items(), lasting):
                self._take(done, fresh, waiting)
                hopeless |= done.hopeless
            again = self._share(waiting, fresh, copied, hopeless)
            if not again:
                break
            left = again
        for path in again:
            reason = "what holds the same was changed or damaged meanwhile; run again to embed it"
            self._skip(path, Unreadable(reason))
        return copied

    def _take(self, done: Done, fresh: Shelf[_Fresh], waiting: Shelf[tuple[()]]) -> None:
        """Store what is done, and note what is to be copied."""
        for file, pages in done.pages.items():
            self._count(file, pages)
        self.batches.take([(row, done.stamps[row.path]) for row in done.rows])
        for same in done.unchanged:
            self.seen.put(same.name, same.digest, done.stamps[same.name])
            self.report.unchanged += 1
            self._advance()
        for same in done.same:
            fresh[same.name] = (same.kind, same.digest, *astuple(done.stamps[same.name]))
            waiting[same.name] = ()
        for path, error in done.failed.items():
            self._skip(path, Unreadable(reason_of(error.reason), replaced=error.replaced))

    def _share(
        self,
        waiting: Shelf[tuple[()]],
        fresh: Shelf[_Fresh],
        copied: Shelf[tuple[str]],
        hopeless: dict[tuple[str, str], str],
    ) -> Shelf[tuple[()]]:
        """Copy rows for what holds the same; returns those that found none."""
        again: Shelf[tuple[()]] = Shelf()
        names = iter(waiting)
        while some := list(islice(names, _COPIES)):
            sources: dict[str, str] = {}
            for path in some:
                kind, digest, *_ = fresh[path]
                source = self._writer.known.find(kind=kind, digest=digest or "")
                if source is not None:
                    sources[path] = source
                elif (reason := hopeless.get((kind, digest or ""))) is not None:
                    self._skip(path, Unreadable(reason_of(reason), replaced=True))
                else:
                    again[path] = ()
            if sources:
                self._copy_some(sources, fresh, copied)
            again.extend((path, ()) for path in sources if path in fresh)  # of a damaged row
        return again

    def _remove(self, copied: Shelf[tuple[str]], prune: bool) -> None:
        """Remove the rows of deleted and replaced files, if there is evidence."""
        lost: list[str] = []
        moved: list[str] = []
        for path in self._before:
            if self._is_there(path) or path in self._replaced or path in self.report.kept:
                continue
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

    def _skip(self, path: str, error: Unreadable, count: int = 1) -> None:
        """Leave out a file or page; `count` are the rows that were expected of it."""
        self.report.skipped[path if path.isprintable() else ascii(path)[1:-1]] = error.reason
        for row in [path, *rows_of(path, self._before.starting)]:
            if row in self._before and error.replaced:
                self._replaced.add(row)
            elif row in self._before:
                self.report.kept[row] = f"{path}: {error.reason}"
        self._advance(count)

    def _advance(self, files: int = 1) -> None:
        self._done += files
        self._progress(self._done, self._total)


def _kind(path: str) -> str:
    """What a listed file, or a page of one, is; `pdf` for a file of pages."""
    return kind_of(PurePosixPath(path)) or ""
