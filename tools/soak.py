"""Many threads on one model: every answer right, memory flat, no call harmed by another's failure.

    python -m tools.soak [--model ume-nano] [--engine auto] [--threads 16] [--calls 2000]

Calls are drawn at random from a fixed list: disc, gen and both, texts, pictures and mixtures,
greedy and sampled, and calls that fail: bad items, an exception or a KeyboardInterrupt in
`progress`. What each should give was computed by one thread on another copy of the model.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

import ume_r1 as ume
from ume_core import Embedder, EmbeddingResult
from ume_core.testing.contract import mixed_items, picture

TOLERANCE = 1e-5
ROUNDS = 4
# Threads' arenas and caches fill in the first half; what then grows by more is a leak.
GROWTH_BYTES = 48 << 20


@dataclass(frozen=True)
class Call:
    """Arguments of one call, and the exception it should raise, if any."""

    items: list[Any]
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    raises: type[BaseException] | None = None


@dataclass
class Report:
    """What a run found.

    Attributes:
        wrong: what was not as it should be.
        difference: the largest between two vectors.
        resident: bytes of the process after each round.
    """

    calls: int = 0
    wrong: list[str] = field(default_factory=list[str])
    difference: float = 0.0
    resident: list[int] = field(default_factory=list[int])

    @property
    def growth(self) -> int:
        """Bytes the process grew by in the second half."""
        return self.resident[-1] - self.resident[len(self.resident) // 2 - 1]


def calls(model: Embedder) -> list[Call]:
    """The list calls are drawn from: those of the modes the model has."""

    def stop(error: type[BaseException]) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            raise error(f"{done} of {total}")

        return progress

    mixed = mixed_items()
    broken = PILImage.new("L", (3, 900))  # its sides are over 200:1
    found = [
        Call(["a dog"]),
        Call([f"text number {n}" for n in range(9)]),
        Call([picture(seed) for seed in range(5)]),
        Call(mixed),
        Call([picture(7, 300, 200), "a cat", picture(8, 60, 200)]),
        Call(["a", ume.Image(broken), "b"], {"on_error": "record"}),
        Call(["a", ""], raises=ume.UmeError),
        Call([picture(9), "b"], {"progress": stop(KeyboardInterrupt)}, KeyboardInterrupt),
        Call(mixed, {"progress": stop(ZeroDivisionError)}, ZeroDivisionError),
    ]
    if "gen" in model.modes:
        gen = {"mode": "gen", "max_new_tokens": 12}
        sampling = ume.Sampling(n=2, temperature=1.5, seed=11)
        found += [
            Call(["a dog", picture(1)], gen),
            Call(mixed, {"mode": "both", "max_new_tokens": 6}),
            Call([picture(2)], gen | {"sampling": sampling}),
            Call([picture(3), "x"], gen | {"progress": stop(KeyboardInterrupt)}, KeyboardInterrupt),
            Call(["a", ume.Image(broken)], gen | {"on_error": "record"}),
        ]
    return found


def soak(
    model: Embedder, expected: Embedder, *, threads: int = 16, count: int = 2000, seed: int = 0
) -> Report:
    """Make `count` calls from `threads` threads.

    Args:
        expected: another copy of the model, which computes what the calls should give.
    """
    known = calls(model)
    answers = [expected.embed(c.items, **c.options) if c.raises is None else None for c in known]
    order = np.random.default_rng(seed).integers(0, len(known), count).tolist()
    report = Report()
    with ThreadPoolExecutor(threads) as pool:
        for part in np.array_split(order, ROUNDS):
            for problem, difference in pool.map(
                lambda n: _check(model, known[n], answers[n]), part.tolist()
            ):
                report.calls += 1
                report.difference = max(report.difference, difference)
                if problem is not None:
                    report.wrong.append(problem)
            report.resident.append(_resident())
    return report


def _check(
    model: Embedder, call: Call, expected: EmbeddingResult | None
) -> tuple[str | None, float]:
    """What is wrong with one call's outcome, and how far its vectors are off."""
    try:
        result = model.embed(call.items, **call.options)
    except BaseException as error:  # KeyboardInterrupt is one of the things tried
        if call.raises is not None and isinstance(error, call.raises):
            return None, 0.0
        return f"{call.options}: {type(error).__name__}: {error}", 0.0
    if expected is None:
        return f"{call.options}: no {call.raises}", 0.0
    if result.records != expected.records:
        return f"{call.options}: records differ", 0.0
    pairs = ((result.disc, expected.disc), (result.gen_samples, expected.gen_samples))
    off = max(
        float(np.abs(np.nan_to_num(one) - np.nan_to_num(other)).max())
        for one, other in pairs
        if one is not None and other is not None
    )
    return (f"{call.options}: vectors differ by {off:.1e}" if off > TOLERANCE else None), off


def _resident() -> int:
    """Bytes of memory this process holds; 0 where /proc is not there."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Print the report; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="ume-nano")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=2000)
    args = parser.parse_args()
    model, expected = (
        ume.load(args.model, engine=args.engine, device=args.device) for _ in range(2)
    )
    began = time.monotonic()
    report = soak(model, expected, threads=args.threads, count=args.calls)
    print(
        f"{report.calls} calls by {args.threads} threads in {time.monotonic() - began:.0f} s: "
        f"{len(report.wrong)} wrong, vectors within {report.difference:.1e}, MB held after each "
        f"round: {', '.join(f'{n / 1e6:.0f}' for n in report.resident)}"
    )
    for problem in sorted(set(report.wrong)):
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if report.wrong or report.growth > GROWTH_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
