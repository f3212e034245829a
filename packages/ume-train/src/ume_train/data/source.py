"""The records of a configuration as batches, checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ume_core.errors import InvalidItem, InvalidOption
from ume_train.config.sections import DataFile, DataSection
from ume_train.data.order import Ints, Order
from ume_train.data.pairs import Example, PairBatch
from ume_train.data.published import (
    SIDES,
    dataset_of,
    example_of,
    media_problems,
    problems_of,
)
from ume_train.data.rows import Unparsed, read_record, scan

_SHOWN = 20  # bad records in a message; all of them are in the file it names


@dataclass(frozen=True)
class Scan:
    """What one pass over a file found.

    Attributes:
        starts, bytes_: int64 (sound records,), first byte and length of each.
        datasets: int64 (sound records,), index in `names`.
        numbers: int64 (sound records,), which record of the file each is.
        names: of the data sets.
        bad: what is wrong with the others, `record N: …`.
    """

    starts: Ints
    bytes_: Ints
    datasets: Ints
    numbers: Ints
    names: list[str]
    bad: list[str]


class FileSource:
    """Records of the published form as a `PairSource`."""

    def __init__(
        self,
        data: DataSection,
        *,
        size: int,
        seed: int,
        answers: bool,
        work: Path,
        frame_pixels: int | None = None,
        held_out: int = 0,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Read every file once.

        Args:
            data: which files, in which order.
            size: pairs of a batch.
            seed: of the order.
            answers: whether every side needs an answer to learn.
            work: directory that keeps what the pass found, for a run that resumes.
            frame_pixels: most pixels of a video's frame.
            held_out: pairs set aside, drawn from all rows, that no batch has.
            progress: is told what is being read.

        Raises:
            InvalidItem: records are bad; all of them are listed in `work / "bad-records.txt"`.
            InvalidOption: a file is missing, or no data set fills a batch.
        """
        self.data, self._frame_pixels = data, frame_pixels
        scans = [_scanned(f, data, answers, work, progress) for f in data.files]
        self.bad = [f"{f.path}, {b}" for f, s in zip(data.files, scans, strict=True) for b in s.bad]
        self._report_bad(work)
        names: list[str] = []
        weights: list[float] = []
        codes: list[Ints] = []
        for file, found in zip(data.files, scans, strict=True):
            codes.append(found.datasets + len(names))  # a data set of each file, though named alike
            names += found.names
            weights += [file.weight] * len(found.names)
        self.names = names
        files = np.concatenate([np.full(len(s.starts), n) for n, s in enumerate(scans)])
        rows = _aside_last(len(files), held_out, seed)
        self._trained = len(rows) - held_out
        self._files = files[rows]
        self._starts = np.concatenate([s.starts for s in scans])[rows]
        self._bytes = np.concatenate([s.bytes_ for s in scans])[rows]
        self._numbers = np.concatenate([s.numbers for s in scans])[rows]
        self._datasets = np.concatenate(codes)[rows]
        own = slice(self._trained)
        self.order = Order(
            self._datasets[own], np.array(weights), self._bytes[own], size, data.order,
            data.buckets, seed,
        )  # fmt: skip
        if not self.order.batches:
            sizes = Counter(self.names[d] for d in self._datasets[own].tolist())
            raise InvalidOption(
                f"no data set has the {size} pairs of a batch ({dict(sizes)})",
                fix="lower the pairs of a batch, or mix data sets: data.order shuffled",
            )

    def __len__(self) -> int:
        return self._trained

    @property
    def mean_bytes(self) -> float:
        """Mean length of a record."""
        return float(self._bytes.mean())

    @property
    def left_out(self) -> list[str]:
        """Data sets that are too small for a batch of their own."""
        if self.data.order != "grouped":
            return []
        return [self.names[n] for n in self.order.too_small]

    def batch(self, step: int) -> PairBatch:
        """The pairs of batch `step`."""
        rows = self.order.rows(step)
        pairs = [self.pair(int(row)) for row in rows]
        sets = {self.names[d] for d in self._datasets[rows]}
        return PairBatch(
            [q for q, _ in pairs], [p for _, p in pairs], gen=True,
            dataset=sets.pop() if len(sets) == 1 else "mixed",
        )  # fmt: skip

    @property
    def aside(self) -> int:
        """How many pairs are set aside."""
        return len(self._starts) - self._trained

    def held_out(self) -> list[tuple[Example, Example]]:
        """The pairs set aside."""
        return [self.pair(row) for row in range(self._trained, len(self._starts))]

    def in_groups(self, size: int) -> Iterator[tuple[str, list[int]]]:
        """All rows once, of one data set together, at most `size` at a time, with its name."""
        for number, name in enumerate(self.names):
            rows = np.flatnonzero(self._datasets[: self._trained] == number).tolist()
            for start in range(0, len(rows), size):
                yield name, rows[start : start + size]

    def text(self, row: int) -> str:
        """A record as its file has it."""
        start, length = int(self._starts[row]), int(self._bytes[row])
        with self.data.files[self._files[row]].path.open("rb") as handle:
            handle.seek(start)
            return handle.read(length).decode()

    def pair(self, row: int) -> tuple[Example, Example]:
        """Both sides of a record."""
        file = self.data.files[self._files[row]]
        record = read_record(file.path, int(self._starts[row]), int(self._bytes[row]))
        place = f"{file.path}, record {int(self._numbers[row])}"
        query, positive = (
            example_of(record, s, file.media, frame_pixels=self._frame_pixels, place=place)
            for s in SIDES
        )
        return query, positive

    def _report_bad(self, work: Path) -> None:
        listing = work / "bad-records.txt"
        if not self.bad:
            listing.unlink(missing_ok=True)
            return
        listing.write_text("\n".join(self.bad) + "\n", "utf-8")
        if self.data.bad_records == "error":
            shown = "\n  ".join(self.bad[:_SHOWN])
            more = f"\n  and {len(self.bad) - _SHOWN} more" if len(self.bad) > _SHOWN else ""
            many = "1 record is bad" if len(self.bad) == 1 else f"{len(self.bad)} records are bad"
            raise InvalidItem(
                f"{many} (listed in {listing}):\n  {shown}{more}",
                fix="mend them, or leave them out with --set data.bad_records=skip",
            )


def _aside_last(rows: int, held_out: int, seed: int) -> Ints:
    """All rows, those that are held out last, in the files' order otherwise."""
    if held_out > rows // 2:
        raise InvalidOption(
            f"{held_out} of {rows} pairs are to be held out, and at most half can be",
            fix=f"--set evaluate.pairs={max(2, rows // 8)}, or evaluate.every=0",
        )
    aside = np.zeros(rows, dtype=bool)
    aside[np.random.default_rng((seed, 2)).permutation(rows)[:held_out]] = True
    return np.concatenate([np.flatnonzero(~aside), np.flatnonzero(aside)])


def _scanned(
    file: DataFile, data: DataSection, answers: bool, work: Path, progress: Callable[[str], None]
) -> Scan:
    path = file.path
    if not path.is_file():
        raise InvalidOption(
            f"there is no file {path}", fix="set data.files, or download what the preset names"
        )
    stat = path.stat()
    about = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, str(file.media), answers,
             data.check_media]  # fmt: skip
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    kept = work / f"records-{key}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as found:
            texts = json.loads(str(found["texts"]))
            return Scan(
                found["starts"], found["bytes"], found["datasets"], found["numbers"], *texts
            )
    made = _scan(file, data, answers, progress)
    work.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    with partial.open("wb") as handle:
        np.savez(
            handle, starts=made.starts, bytes=made.bytes_, datasets=made.datasets,
            numbers=made.numbers, texts=np.array(json.dumps([made.names, made.bad])),
        )  # fmt: skip
    partial.replace(kept)
    return made


def _scan(
    file: DataFile, data: DataSection, answers: bool, progress: Callable[[str], None]
) -> Scan:
    rows: list[tuple[int, int, int, int]] = []
    codes: dict[str, int] = {}
    bad: list[str] = []
    for number, (start, length, record) in enumerate(scan(file.path)):
        if isinstance(record, Unparsed):
            bad.append(f"record {number}: is no JSON ({record.why})")
            continue
        problems = problems_of(record, answers=answers)
        if not problems and data.check_media != "none":
            problems = media_problems(record, file.media, decode=data.check_media == "decode")
        if problems:
            bad.append(f"record {number}: {'; '.join(problems)}")
            continue
        code = codes.setdefault(dataset_of(record), len(codes))
        rows.append((start, length, code, number))
        if number % 10_000 == 9_999:
            progress(f"{file.path}: {number + 1:,} records read, {len(bad):,} bad")
    table: Any = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Scan(table[:, 0], table[:, 1], table[:, 2], table[:, 3], list(codes), bad)


def media_roots(files: Sequence[DataFile]) -> tuple[Path, ...]:
    """The directories that media may be read from."""
    return tuple(f.media.resolve() for f in files if f.media is not None)
