"""Items prepared by threads, ahead of the model and in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Prepared items that wait for the model; whichever comes first.
_AHEAD = 64
_AHEAD_BYTES = 256 * 1024 * 1024


def prepare_ahead(
    count: int, prepare: Callable[[int], T], size: Callable[[T], int]
) -> Generator[T]:
    """`prepare(0)`, `prepare(1)`, … in order, computed by threads while the caller works.

    Args:
        size: bytes of a prepared item; the mean of those seen bounds how far ahead threads run.
    """
    if count == 1:
        yield prepare(0)
        return
    workers = min(count, max(2, min(8, os.cpu_count() or 2)))
    waiting: deque[Future[T]] = deque()
    started = seen = held = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ume-prepare")
    try:
        for done in range(count):
            mean = held / seen if seen else 0.0
            ahead = _AHEAD if mean * _AHEAD <= _AHEAD_BYTES else int(_AHEAD_BYTES / mean)
            limit = max(workers, ahead) if seen else workers
            while started < count and started - done < limit:
                waiting.append(pool.submit(prepare, started))
                started += 1
            ready = waiting.popleft().result()
            seen += 1
            held += size(ready)
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
