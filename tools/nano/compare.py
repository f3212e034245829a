"""Is one ume-nano better than another? `python -m tools.nano.compare BEFORE.json AFTER.json`.

Both files are `tools.nano.evaluate --json`'s. Differences of recall at 5, in points, with 95 %
paired bootstrap intervals: a query is drawn with all its cells (styles, directions, modes), since a
concept that is hard is hard in each of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.nano.evaluate import Cell

_DRAWS = 4000


def difference(
    before: Sequence[Cell], after: Sequence[Cell], seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference over all queries of the cells, and its interval, in points of recall at 5.

    Args:
        before, after: the same cells in the same order.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[npt.NDArray[np.int64]]] = {}
    for old, new in zip(before, after, strict=True):
        assert old.key == new.key and len(old.hits5) == len(new.hits5), old.key
        change = [int(b) - int(a) for a, b in zip(old.hits5, new.hits5, strict=True)]
        groups.setdefault(old.concepts, []).append(np.array(change))
    # Per query: the sum over its cells. Queries of different pools are drawn apart.
    sums = [np.sum(changes, axis=0) for changes in groups.values()]
    count = sum(len(c.hits5) for c in before)
    drawn = sum(
        (s[rng.integers(0, len(s), (_DRAWS, len(s)))].sum(axis=1) for s in sums), np.zeros(_DRAWS)
    )
    low, high = np.percentile(100 * drawn / count, [2.5, 97.5])
    return 100 * sum(int(s.sum()) for s in sums) / count, float(low), float(high)


def read(path: Path) -> dict[tuple[str, ...], Cell]:
    """An evaluation's cells."""
    return {(c := Cell(**row)).key: c for row in json.loads(path.read_text("utf-8"))["cells"]}


def table(before: dict[tuple[str, ...], Cell], after: dict[tuple[str, ...], Cell]) -> str:
    """Differences pooled and by cell, as Markdown."""
    keys = [k for k in before if k in after]

    def row(name: str, chosen: Iterable[tuple[str, ...]]) -> str:
        chosen = list(chosen)
        old, new = [before[k] for k in chosen], [after[k] for k in chosen]
        value, low, high = difference(old, new)
        queries = sum(len(c.hits5) for c in old)
        recalls = [sum(c.hits5.count("1") for c in cells) / queries * 100 for cells in (old, new)]
        return (
            f"| {name} | {queries:,} | {recalls[0]:.1f} | {recalls[1]:.1f} "
            f"| {value:+.1f} [{low:.1f}, {high:.1f}] |"
        )

    lines = ["| cells | queries | before | after | difference |", "|---|---|---|---|---|"]
    lines.append(row("all", keys))
    lines += [row(f"all of {m}", found) for m in ("disc", "gen") if (found := _of(keys, 4, m))]
    lines += [row(f"all of {p}", _of(keys, 0, p)) for p in dict.fromkeys(k[0] for k in keys)]
    lines += [row(", ".join(k), [k]) for k in keys]
    return "\n".join(lines)


def _of(keys: Iterable[tuple[str, ...]], place: int, value: str) -> list[tuple[str, ...]]:
    return [k for k in keys if k[place] == value]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    print(table(read(args.before), read(args.after)))


if __name__ == "__main__":
    main()
