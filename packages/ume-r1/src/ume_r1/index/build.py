"""Bringing an index up to date with its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, UmeError
from ume_core.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Item
from ume_core.limits import Limits
from ume_r1.commands.common import TEXT_SUFFIXES, item_from_file
from ume_r1.index.store import Index, Row

SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | TEXT_SUFFIXES
# Files per commit: what a kill can cost. Gen takes seconds an item, so it commits more often.
_CHUNK = {"disc": 64, "gen": 8, "both": 8}


@dataclass
class BuildReport:
    """What a run did; `skipped` maps path to reason."""

    embedded: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    skipped: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class _File:
    path: str
    real: Path
    size: int
    mtime_ns: int
    digest: str


def find_files(folder: Path, index: Path) -> list[Path]:
    """Pictures, clips and texts below `folder`, sorted; hidden ones and the index left out.

    Raises:
        InvalidOption: no such folder.
    """
    if not folder.is_dir():
        raise InvalidOption(f"no folder {folder}", fix="name a directory with pictures or clips")
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and not path.is_relative_to(index):
            found.append(path)
    return found


def build_index(
    index: Index,
    folder: Path,
    model: Embedder,
    *,
    max_new_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Embed what is new or changed, copy what only moved, remove what is gone.

    Every chunk is committed as it is done, so an interrupted run continues where it stopped.
    """
    report = BuildReport()
    with index.lock():
        known = index.known()
        files = find_files(folder, index.directory.resolve())
        names = {str(f.relative_to(folder)) for f in files}
        by_digest = {digest: path for path, (digest, _, _) in known.items()}
        waiting: list[_File] = []
        copies: list[tuple[_File, str]] = []
        for done, path in enumerate(files):
            file = _inspect(path, folder, known, report)
            if file is None:
                pass
            elif file.digest in by_digest:
                copies.append((file, by_digest[file.digest]))
            else:
                waiting.append(file)
            progress(done + 1 - len(waiting), len(files))
        _copy(index, copies, report)
        gone = sorted(set(known) - names)
        index.remove(gone)
        sources = {old for file, old in copies if file.path != old}
        report.removed = len(set(gone) - sources)
        _embed(index, waiting, model, max_new_tokens, len(files), progress, report)
        # What was readable once and is not any more must not be found by its old content.
        index.remove(sorted(set(known) & set(report.skipped)))
    return report


def _inspect(
    path: Path, folder: Path, known: dict[str, tuple[str, int, int]], report: BuildReport
) -> _File | None:
    """The file with its digest, or None if its row stands or it cannot be read."""
    name = str(path.relative_to(folder))
    if not _is_unicode(name):
        report.skipped[ascii(name)] = "its name is not valid UTF-8"
        return None
    if path.is_symlink() and not path.exists():
        report.skipped[name] = "it is a broken link"
        return None
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            report.skipped[name] = "it is a link that leads out of the folder"
            return None
        stat = real.stat()
        if not real.is_file():
            report.skipped[name] = "it is not a regular file"
            return None
        if stat.st_size > Limits().file_bytes:
            report.skipped[name] = f"its {stat.st_size:,} bytes exceed limits.file_bytes"
            return None
        if name in known and known[name][1:] == (stat.st_size, stat.st_mtime_ns):
            report.unchanged += 1
            return None
        digest = hashlib.sha256()
        with real.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as error:
        report.skipped[name] = f"cannot be read: {error.strerror or error}"
        return None
    if stat.st_size == 0:
        report.skipped[name] = "it is empty (0 bytes)"
        return None
    return _File(name, real, stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy(index: Index, copies: list[tuple[_File, str]], report: BuildReport) -> None:
    """Rows of files whose content is known already, under another name or time."""
    if not copies:
        return
    stored = {r["path"]: r for r in index.fetch(sorted({old for _, old in copies}))}
    rows = [
        stored[old] | {"path": f.path, "size": f.size, "mtime_ns": f.mtime_ns} for f, old in copies
    ]
    index.put_table(pa.Table.from_pylist(rows, schema=index.schema))
    report.moved += sum(f.path != old for f, old in copies)
    report.unchanged += sum(f.path == old for f, old in copies)


def _embed(
    index: Index,
    waiting: list[_File],
    model: Embedder,
    max_new_tokens: int | None,
    total: int,
    progress: Callable[[int, int], None],
    report: BuildReport,
) -> None:
    mode = index.description.mode
    before = total - len(waiting)
    chunk = _CHUNK[mode]
    for start in range(0, len(waiting), chunk):
        files: list[_File] = []
        items: list[Item] = []
        for file in waiting[start : start + chunk]:
            try:
                items.append(item_from_file(file.real, Limits()))
                files.append(file)
            except UmeError as error:
                report.skipped[file.path] = f"{error.cause}. {error.fix}"
        if items:
            result = model.embed(items, mode=mode, max_new_tokens=max_new_tokens, on_error="record")
            rows: list[Row] = []
            for i, (file, record) in enumerate(zip(files, result.records, strict=True)):
                if record.status == "failed":
                    report.skipped[file.path] = record.reason or "failed"
                    continue
                rows.append(
                    Row(
                        file.path,
                        file.digest,
                        items[i].modality,
                        file.size,
                        file.mtime_ns,
                        record.status,
                        record.thinking,
                        record.summary,
                        result.disc[i] if result.disc is not None else None,
                        result.gen[i] if result.gen is not None else None,
                    )
                )
            index.put(rows)
            report.embedded += len(rows)
        progress(before + min(start + chunk, len(waiting)), total)
