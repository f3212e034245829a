"""`python -m tools.scale`: build a large index in steps, and search it at each.

Every step is a process of its own, whose peak of memory is its own, and leaves its figures in the
work folder: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.scale.report import write_report
from tools.scale.synthetic import Space, SyntheticFolder, SyntheticModel, digest_of, names_of
from ume_r1.index import Description, Index, build_index
from ume_r1.index.rows import Row
from ume_r1.index.table import PAGE
from ume_r1.index.writer import writing

ROOT = Path(__file__).parent / "report"
Figures = dict[str, Any]


def main() -> None:
    """All steps, then the report."""
    parser = argparse.ArgumentParser("python -m tools.scale", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--work", type=Path, default=Path("/tmp/ume-scale"))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(_measured(STEPS[args.step], args)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "figures.json"
    figures: Figures = json.loads(path.read_text()) if path.exists() else {}
    for rows in args.rows:
        for step in STEPS:
            if f"{step} {rows}" not in figures:
                figures[f"{step} {rows}"] = _run(step, rows, args)
                path.write_text(json.dumps(figures, indent=1))
    write_report(figures, args.rows, args.dimensions, ROOT)


def _run(step: str, rows: int, args: argparse.Namespace) -> Figures:
    print(f"{step}, {rows:,} rows ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "tools.scale", "--step", step, "--rows", str(rows)]
    command += ["--dimensions", str(args.dimensions), "--work", str(args.work)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"  {said.strip()}", file=sys.stderr, flush=True)
    return json.loads(said)


def _measured(step: Callable[[Index, SyntheticModel, int], Figures], args: Any) -> Figures:
    model = SyntheticModel(Space(args.dimensions))
    directory = args.work / f"index-{args.dimensions}"
    about = Description.of(model, SyntheticFolder(0), "disc", name="synthetic")
    index = Index.create(directory, about)
    before, cpu = time.monotonic(), time.process_time()
    figures = step(index, model, args.rows[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures | {
        "seconds": time.monotonic() - before, "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": peak, "load": os.getloadavg()[0],
    }  # fmt: skip


def build(index: Index, model: SyntheticModel, rows: int) -> Figures:
    """Write what is new, as a run does with what was embedded; then compact and index it."""
    with writing(index) as writer:
        before = len(writer.known)
        for start in range(before, rows, PAGE):
            names = names_of(range(start, min(rows, start + PAGE)))
            vectors = model.space.draw(np.random.default_rng(start), len(names))
            writer.put([_row(name, vector) for name, vector in zip(names, vectors, strict=True)])
            if start // PAGE % 20 == 0:
                print(f"  {start:,} of {rows:,}", file=sys.stderr, flush=True)
        writer.finish()
    disk = sum(p.stat().st_size for p in index.directory.rglob("*") if p.is_file())
    return {"written": rows - before, "recall_of_rows": writer.recall, "disk_bytes": disk}


def _row(name: str, vector: np.ndarray) -> Row:
    return Row(name, digest_of(name), "text", "2026-01-01T00:00:00", "ok", "", "", vector, None)


def again(index: Index, model: SyntheticModel, rows: int) -> Figures:
    """Run again, with nothing new: every file is listed and compared."""
    report = build_index(index, SyntheticFolder(rows), model)
    assert report.unchanged == rows
    return {}


def known(index: Index, model: SyntheticModel, rows: int) -> Figures:
    """Read path, kind and digest of every row."""
    del model
    found = index.known()
    assert len(found) == rows == sum(1 for _ in found.items())
    return {}


def exact(index: Index, model: SyntheticModel, rows: int) -> Figures:
    """Searches that compare every row."""
    del model
    return _searches(index, rows, 20, exact=True)


def approximate(index: Index, model: SyntheticModel, rows: int) -> Figures:
    """Searches as they are by default, and what they find of what exact ones do."""
    del model
    return _searches(index, rows, 200) | {"recall": _recall(index, 20)}


def _queries(index: Index, count: int) -> np.ndarray:
    space = Space(index.description.signature.dimensions)
    return space.draw(np.random.default_rng(2**31), count)


def _searches(index: Index, rows: int, count: int, **how: Any) -> Figures:
    assert len(index) == rows
    index.search(_queries(index, 1)[0], "disc", 10, **how)
    times: list[float] = []
    for query in _queries(index, count):
        began = time.perf_counter()
        assert len(index.search(query, "disc", 10, **how)) == 10
        times.append(time.perf_counter() - began)
    p50, p99 = np.quantile(times, (0.5, 0.99))
    return {"p50": p50, "p99": p99, "fastest": min(times), "searches": count}


def _recall(index: Index, count: int) -> float:
    found = 0
    for query in _queries(index, count):
        near, true = (
            {hit.name for hit in index.search(query, "disc", 10, exact=e)} for e in (False, True)
        )
        found += len(near & true)
    return found / (10 * count)


STEPS: dict[str, Callable[[Index, SyntheticModel, int], Figures]] = {
    step.__name__: step for step in (build, known, approximate, exact, again)
}

if __name__ == "__main__":
    main()
