"""Where an engine's time goes: matrix products, attention, and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable

_ATTENTION = ("attention", "attn")
_PRODUCTS = ("linear", "mm", "matmul", "gemm", "conv")


def profiled(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of one run by torch.profiler: of a CPU's operators, and the whole on the clock.

    Whatever is no operator is in the whole alone: Python, tokenizing, scheduling, sampling outside
    torch. The profiler's own work lengthens it.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        run()
        whole = time.perf_counter() - began
    seconds = {"products": 0.0, "attention": 0.0, "other operators": 0.0}
    for event in found.key_averages():
        name = event.key.lower()
        kind = "other operators"
        if any(part in name for part in _ATTENTION):
            kind = "attention"
        elif any(part in name for part in _PRODUCTS):
            kind = "products"
        seconds[kind] += event.self_cpu_time_total / 1e6
    return {kind: round(value, 3) for kind, value in (*seconds.items(), ("whole", whole))}
