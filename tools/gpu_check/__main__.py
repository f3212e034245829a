"""The command line of tools/gpu-check; no stage's failure or crash keeps the others from running.

Stages: environment (the machine, its ceilings, what can be imported, random weights of the 2B and
7B shapes), correctness, disc, gen, training, and report, which needs no GPU: it makes gpu-NAME.md
and gpu-NAME.png of all findings below --out. Each but report ends within eight minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tools.gpu_check.child import child
from tools.gpu_check.findings import write

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("environment", "correctness", "disc", "gen", "training")
# A check that would begin after the first is not run; a stage still running at the second is ended.
SECONDS, MOST_SECONDS = 390.0, 470.0
PRELOAD = ["tools.gpu_check.stages"]


def main() -> int:
    """Returns 0 where nothing failed, whatever could not be run."""
    parser = argparse.ArgumentParser(prog="tools/gpu-check", description=__doc__)
    parser.add_argument("--stage", choices=(*NAMES, "report"), help="one alone; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "gpu-check" / "found")
    parser.add_argument("--device", default="cuda", help="a torch device")
    parser.add_argument(
        "--size", choices=("full", "nano"), default="full", help="nano rehearses on a CPU"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    failed = False
    for name in NAMES if args.stage is None else [args.stage]:
        if name == "report":
            continue
        about = {
            "stage": name, "device": args.device, "size": args.size,
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": shlex.join(["tools/gpu-check", *sys.argv[1:]]),
        }  # fmt: skip
        cache = ROOT / ".cache" / "gpu-check"
        given = (name, args.device, args.size == "nano", cache, args.out, about, SECONDS)
        process = context.Process(target=child, args=given)
        failed |= supervise(process, args.out / f"{name}.json", about)
    if args.stage in (None, "report"):
        from tools.gpu_check import report

        print(report.make(args.out))
    return int(failed)


def supervise(
    process: BaseProcess, path: Path, about: dict[str, Any], seconds: float = MOST_SECONDS
) -> bool:
    """Run a stage's process to its end, and note in its file how it ended.

    Returns:
        Whether anything failed.
    """
    began = time.monotonic()
    process.start()
    process.join(seconds)
    ended = ""
    if process.is_alive():
        ended = f"it was ended after {seconds:g} s"
        process.kill()
        process.join()
    elif process.exitcode:
        ended = f"its process ended with status {process.exitcode}"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if any(found.get(key) != value for key, value in about.items()):  # it wrote nothing
        found = {**about, "finished": False, "checks": {}}
    found["seconds"] = round(time.monotonic() - began, 1)
    if ended:
        found["ended"] = ended
        print(f"{about['stage']}: {ended}; see {path.with_name('gpu-check.log')}", file=sys.stderr)
    write(path, found)
    states = [check["status"] for check in found["checks"].values()]
    said = ", ".join(f"{states.count(state)} {state}" for state in ("ok", "failed", "not run"))
    print(f"{about['stage']}: {said}; {found['seconds']} s", file=sys.stderr)
    return bool(ended) or "failed" in states


if __name__ == "__main__":
    sys.exit(main())
