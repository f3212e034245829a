"""Which rows a step sees, as a function of the step alone.

So a run that resumes at a step, inside an epoch or at its end, sees what it would have seen, on
any number of processes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_BLOCK = 1024  # batches whose data sets are drawn together


class Order:
    """Batches of rows.

    Args:
        datasets: int64 (rows,), the number of each row's data set.
        weights: how often each data set is drawn, against its size; used by `grouped`.
        lengths: of the rows, for buckets.
        size: rows of a batch.
        order: see `DataSection.order`.
        buckets: see `DataSection.buckets`.
        seed: of all draws.
    """

    def __init__(
        self,
        datasets: Ints,
        weights: npt.NDArray[np.float64],
        lengths: Ints,
        size: int,
        order: Literal["file", "grouped", "shuffled"],
        buckets: int,
        seed: int,
    ) -> None:
        self.size, self.seed, self._order, self._buckets = size, seed, order, buckets
        self._lengths = lengths
        groups = [np.arange(len(datasets))]
        if order == "grouped":
            groups = [np.flatnonzero(datasets == d) for d in range(len(weights))]
        self._groups = groups
        shares = np.array([len(g) for g in groups], dtype=np.float64)
        if order == "grouped":
            shares = shares * weights
        # A data set smaller than a batch cannot fill one.
        shares[[len(g) < size for g in groups]] = 0
        self._shares = shares / shares.sum() if shares.sum() else shares
        self._drawn: dict[int, npt.NDArray[np.int64]] = {}
        self._before: list[Ints] = [np.zeros(len(groups), dtype=np.int64)]
        self._epochs: dict[tuple[int, int], Ints] = {}

    @property
    def batches(self) -> int:
        """Batches of one pass over all rows."""
        return sum(
            len(g) // self.size for g, s in zip(self._groups, self._shares, strict=True) if s
        )

    @property
    def too_small(self) -> list[int]:
        """Data sets that fill no batch."""
        return [n for n, g in enumerate(self._groups) if 0 < len(g) < self.size]

    def rows(self, batch: int) -> Ints:
        """int64 (size,): the rows of a batch."""
        group, place = self._place(batch)
        per_epoch = len(self._groups[group]) // self.size
        epoch, place = divmod(place, per_epoch)
        return self._epoch(group, epoch)[place * self.size : (place + 1) * self.size]

    def _place(self, batch: int) -> tuple[int, int]:
        """The data set of a batch, and how many batches of it came before."""
        if len(self._groups) == 1:
            return 0, batch
        block, place = divmod(batch, _BLOCK)
        while len(self._before) <= block + 1:
            drawn = self._block(len(self._before) - 1)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self._groups)))
        drawn = self._block(block)
        group = int(drawn[place])
        return group, int(self._before[block][group]) + int((drawn[:place] == group).sum())

    def _block(self, block: int) -> Ints:
        if block not in self._drawn:
            rng = np.random.default_rng((self.seed, 0, block))
            self._drawn[block] = rng.choice(len(self._groups), _BLOCK, p=self._shares)
        return self._drawn[block]

    def _epoch(self, group: int, epoch: int) -> Ints:
        """One data set's rows in the order of one pass over it."""
        rows = self._groups[group]
        if self._order == "file":
            return rows
        if (group, epoch) not in self._epochs:
            while len(self._epochs) > 64:
                self._epochs.pop(next(iter(self._epochs)))
            rng = np.random.default_rng((self.seed, 1, group, epoch))
            made = rng.permutation(rows)
            if self._buckets > 1:
                made = self._bucketed(made, rng)
            self._epochs[group, epoch] = made
        return self._epochs[group, epoch]

    def _bucketed(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """Rows of like lengths in one batch: `buckets` batches sorted, then shuffled."""
        whole = len(rows) // self.size * self.size
        out: list[Ints] = []
        for start in range(0, whole, self._buckets * self.size):
            part = rows[start : min(whole, start + self._buckets * self.size)]
            part = part[self._lengths[part].argsort(kind="stable")].reshape(-1, self.size)
            out += list(part[rng.permutation(len(part))])
        return np.concatenate([*out, rows[whole:]])
