"""Hypothesis against the server: no fault, no hang, nothing left behind, no text that tells much.

python -m tools.load.fuzz [--cases 20000] [--minutes 30]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings

import ume_core
from tools.load.requests import bodies, judge
from ume_server.settings import SERVER_LIMITS, SERVER_POLICY, Settings
from ume_server.testing import running

_PATHS = ("/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings")
_SECONDS = 30.0  # an answer that takes longer counts as a hang


def main() -> None:
    """Send the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_args()
    model = ume_core.load(
        "ume-nano", engine="torch", device="cpu", dtype="float32", policy=SERVER_POLICY,
        limits=SERVER_LIMITS,
    )  # fmt: skip
    statuses: dict[int, int] = {}
    end = time.monotonic() + 60 * args.minutes
    with running(model, Settings()) as server, httpx.Client(
        base_url=server.url, timeout=_SECONDS
    ) as client:  # fmt: skip

        @settings(
            max_examples=args.cases, deadline=None, database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )  # fmt: skip
        @given(bodies())
        def send(body: dict[str, Any]) -> None:
            if time.monotonic() > end:
                return
            path = _PATHS[sum(statuses.values()) % len(_PATHS)]
            sent = json.dumps(body)
            answer = client.post(path, content=sent.encode())
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            judge(answer, sent)

        send()
        assert server.gone(), "something is still held"
    print(f"{sum(statuses.values())} cases, by status: {dict(sorted(statuses.items()))}")


if __name__ == "__main__":
    main()
