"""Schemathesis and Hypothesis against the server: no fault, no hang, nothing that stays behind.

    python -m tools.load.fuzz [--cases 20000] [--minutes 30] [--out tools/load/report]

Half of the cases are made from the server's own OpenAPI document, right and wrong ones
(Schemathesis), half are bodies near the accepted shapes with damaged pictures and clips
(`tools.load.requests`). The server is a process of its own, whose memory, files and children are
counted before and after.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tools.load.requests import bodies, judge
from tools.load.servers import OURS, processor, served

_PATHS = ("/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings")
_SECONDS = 30.0  # an answer that takes longer counts as a hang
_CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip
_ROUND = 250  # cases of each kind in turn, so that a run that is cut short has both
_WARM = 2000  # cases after which caches are full and memory should stay


@dataclass
class Sent:
    """What came back.

    Attributes:
        statuses: of each kind of case, how often each status came.
        slowest: seconds.
    """

    statuses: dict[str, Counter[int]] = field(default_factory=dict[str, "Counter[int]"])
    slowest: float = 0.0

    @property
    def cases(self) -> int:
        """How many."""
        return sum(sum(counter.values()) for counter in self.statuses.values())

    def count(self, kind: str, status: int, seconds: float) -> None:
        """One more."""
        self.statuses.setdefault(kind, Counter())[status] += 1
        self.slowest = max(self.slowest, seconds)


def fuzz(url: str, cases: int, minutes: float, watch: Callable[[int], None] | None = None) -> Sent:
    """Send cases to a server.

    Args:
        url: with scheme and port.
        cases: how many.
        minutes: after which no more are sent.
        watch: told the number of cases now and then.

    Raises:
        AssertionError: an answer that no request may get.
        httpx.TimeoutException: a hang.
    """
    sent, end = Sent(), time.monotonic() + 60 * minutes
    how = settings(
        max_examples=min(_ROUND, cases // 2), deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                               HealthCheck.filter_too_much],
    )  # fmt: skip

    def noted() -> None:
        if watch is not None and sent.cases % 500 == 0:
            watch(sent.cases)

    with httpx.Client(base_url=url, timeout=_SECONDS) as client:

        @how
        @given(bodies(), st.sampled_from(_PATHS))
        def near(body: dict[str, Any], path: str) -> None:
            if time.monotonic() > end:
                return
            began, text = time.monotonic(), json.dumps(body)
            answer = client.post(path, content=text.encode())
            sent.count("bodies", answer.status_code, time.monotonic() - began)
            judge(answer, text)
            noted()

        @how
        @given(documented(url))
        def by_schema(case: schemathesis.Case) -> None:
            if time.monotonic() > end:
                return
            began = time.monotonic()
            answer = case.call(base_url=url, timeout=_SECONDS)
            sent.count("OpenAPI", answer.status_code, time.monotonic() - began)
            case.validate_response(answer, checks=_CHECKS)
            if case.path in _PATHS:
                plain = httpx.Response(answer.status_code, content=answer.content)
                judge(plain, json.dumps(case.body, default=str))
            noted()

        while sent.cases < cases and time.monotonic() < end:
            near()
            by_schema()
    return sent


def documented(url: str) -> st.SearchStrategy[schemathesis.Case]:
    """Requests of every operation of the server's document, and such as it rules out."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    modes: tuple[Any, ...] = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of([op.as_strategy(generation_mode=m) for op in operations for m in modes])


def still_held(url: str) -> dict[str, float]:
    """What the server says it still holds or computes, some seconds after the last answer."""
    end = time.monotonic() + 20
    while True:
        text = httpx.get(f"{url}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        held = {
            name: float(value) for name, _, value in lines
            if name.startswith(("ume_num_requests", "ume_bytes_received")) and float(value)
        }  # fmt: skip
        if not held or time.monotonic() > end:
            return held
        time.sleep(0.2)


def main() -> None:
    """Send the cases and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("tools/load/report"))
    args = parser.parse_args()
    log = Path(tempfile.mkdtemp()) / "server.log"
    memory: list[tuple[int, int]] = []
    with served(log, *OURS) as server:
        process, url = psutil.Process(server.process.pid), f"http://127.0.0.1:{server.port}"

        def watch(cases: int) -> None:
            memory.append((cases, server.rss))
            print(f"{cases} cases, {server.rss >> 20} MiB", flush=True)

        began, files = time.monotonic(), process.num_fds()
        sent = fuzz(url, args.cases, args.minutes, watch)
        held, seconds = still_held(url), time.monotonic() - began
        after, children = process.num_fds(), len(process.children())
    assert not held, f"something is still held: {held}"
    assert b"Traceback" not in log.read_bytes(), f"a traceback in {log}"
    warm = [rss for cases, rss in memory if cases >= _WARM] or [rss for _, rss in memory]
    lines = [
        "# Fuzzing the server",
        "",
        f"`python -m tools.load.fuzz --cases {args.cases}` on {processor()}: {sent.cases:,} "
        f"requests in {seconds:.0f} s, the slowest answer after {sent.slowest:.2f} s. "
        f"No status of 500 or above, no answer later than {_SECONDS:g} s, no text with a path, "
        "address or module name, no answer that the OpenAPI document does not allow, no "
        "traceback in the log; afterwards nothing waits, runs or is held.",
        "",
        "| made by | " + " | ".join(str(s) for s in _seen(sent)) + " |",
        "|---|" + "---|" * len(_seen(sent)),
        *(
            f"| {kind} | " + " | ".join(f"{counter[s]:,}" for s in _seen(sent)) + " |"
            for kind, counter in sent.statuses.items()
        ),
        "",
        f"Memory, MiB after so many cases: {_course(memory)}; between {min(warm) >> 20} and "
        f"{max(warm) >> 20} after the first {_WARM:,}. Open files: {files} before, {after} after, "
        f"with {children} processes that decode.",
    ]
    (args.out / "fuzz.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def _course(memory: list[tuple[int, int]]) -> str:
    """Memory at about ten points of the run."""
    return ", ".join(
        f"{cases:,}: {rss >> 20}" for cases, rss in memory[:: max(1, len(memory) // 10)]
    )


def _seen(sent: Sent) -> list[int]:
    return sorted({status for counter in sent.statuses.values() for status in counter})


if __name__ == "__main__":
    main()
