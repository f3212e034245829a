"""Embed tiny texts on a local Ray cluster: `python -m tools.ray_scale [--sizes 1000 10000 100000]`.

Every size is a run of its own into a new index, with ume-nano's disc on ONNX Runtime in one worker.
Written to `tools/ray_scale/report` as it goes: what an item costs while a run grows, and how much
memory the driver and its largest worker hold. A run that is interrupted is reported as far as it
came.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
SIZES = (1_000, 10_000, 100_000)
Steps = list[dict[str, float]]


def memory() -> tuple[int, int]:
    """MiB of this process, and of the largest worker: resident, but those that are shared."""
    me = psutil.Process()
    workers = [0]
    for process in psutil.process_iter(["cmdline"]):
        try:
            if " ".join(process.info["cmdline"] or []).startswith("ray::MapWorker"):
                workers.append(_own(process))
        except psutil.Error:
            continue
    return _own(me), max(workers)


def _own(process: psutil.Process) -> int:
    found = process.memory_info()
    return (found.rss - found.shared) >> 20


def measure(count: int, folder: Path, save: Callable[[Steps], None]) -> None:
    """One run over so many texts of their own; `save` gets what was seen so far."""
    import ray

    from ume_ray import Workers, embed_dataset

    texts = [f"thing number {number}" for number in range(count)]
    table = pa.table({"id": pa.array(range(count)), "text": texts})
    pq.write_table(table, folder / f"{count}.parquet", row_group_size=10_000)
    steps: Steps = []
    began = time.monotonic()

    def note(done: int) -> None:
        driver, worker = memory()
        load = round(os.getloadavg()[0], 1)
        seconds = round(time.monotonic() - began, 2)
        steps.append(
            {"items": done, "seconds": seconds, "driver": driver, "worker": worker, "load": load}
        )
        save(steps)

    report = embed_dataset(
        ray.data.read_parquet(str(folder / f"{count}.parquet"), num_cpus=0.25),
        folder / f"index-{count}",
        model="ume-nano",
        engine="onnxruntime",
        workers=Workers(count=1, cpus=1),
        progress=note,
    )
    assert report.embedded == count and not report.failures
    note(count)


def costs(steps: Steps, windows: int = 10) -> tuple[list[float], list[float]]:
    """Items done, and ms an item between one window of them and the next; start-up left out."""
    found: tuple[list[float], list[float]] = ([], [])
    size = max(steps[-1]["items"] / windows, 500)
    last = steps[0]
    for step in steps[1:]:
        done = step["items"] - last["items"]
        if done >= size:
            found[0].append(step["items"])
            found[1].append(1000 * (step["seconds"] - last["seconds"]) / done)
            last = step
    return found


def draw(runs: dict[str, Steps], path: Path) -> None:
    """Cost and memory over the items that are done."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (cost, held) = plt.subplots(1, 2, figsize=(9, 3.4))
    for name, steps in runs.items():
        cost.plot(*costs(steps), "o-", label=f"a run of {int(name):,}")
    longest = max(runs.values(), key=lambda steps: steps[-1]["items"])
    for who in ("driver", "worker"):
        held.plot([s["items"] for s in longest], [s[who] for s in longest], label=who)
    cost.set(xscale="log", xlabel="items done", ylabel="ms an item", ylim=(0, None))
    held.set(xlabel="items done", ylabel="MiB, unshared", ylim=(0, None))
    for axes in (cost, held):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=HERE / "report")
    args = parser.parse_args()
    # Workers share the niceness of this process instead of Ray's 15.
    os.environ.setdefault("RAY_worker_niceness", str(os.nice(0)))
    import ray
    from ray.data import DataContext

    from ume_ray.cluster import connected

    args.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Steps] = {}

    def save(name: str, steps: Steps) -> None:
        runs[name] = steps
        about = {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "ray": ray.__version__,
        }
        text = json.dumps({**about, "runs": runs})
        (args.out / "report.json").write_text(text.replace("}, ", "},\n") + "\n", "utf-8")

    with tempfile.TemporaryDirectory() as folder, connected("local"):
        DataContext.get_current().enable_progress_bars = False
        try:
            for count in args.sizes:
                measure(count, Path(folder), lambda steps, n=str(count): save(n, steps))
                print(count, runs[str(count)][-1], flush=True)
        finally:
            if runs:
                draw(runs, args.out / "cost.png")


if __name__ == "__main__":
    main()
