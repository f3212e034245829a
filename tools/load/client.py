"""A small HTTP client of its own: what is measured is the server, not the client."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One request, and what it must give.

    Attributes:
        kind: for the report.
        body: of the request.
        disc, gen: the offline vectors; None where the answer has none.
        status: of HTTP.
    """

    kind: str
    body: bytes
    disc: Any = None
    gen: Any = None
    status: int = 200


@dataclass
class Tally:
    """What came back.

    Attributes:
        seconds: latency of every answer, by kind.
        wrong: answers that were not as they must be; the first few in words.
        tokens: generated, by the answers' own count.
        took: seconds of the whole.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    wrong: int = 0
    said: list[str] = field(default_factory=list[str])
    retried: int = 0
    tokens: int = 0
    took: float = 0.0

    @property
    def answers(self) -> int:
        """How many."""
        return sum(map(len, self.seconds.values()))

    def percentile(self, q: float, kind: str | None = None) -> float:
        """Of the latency, in milliseconds."""
        chosen = [s for k, v in self.seconds.items() if kind in (None, k) for s in v]
        return 1000 * float(np.percentile(chosen, q)) if chosen else float("nan")


class Connection:
    """One connection that is kept."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        reader, writer = self._streams
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        if b"connection: close" in lines:
            self.close()
        return status, answer

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def drive(
    port: int, cases: Iterator[Case], clients: int, *, path: str = "/v1/embeddings",
    patient: bool = False, tally: Tally | None = None,
) -> Tally:  # fmt: skip
    """Send all cases over some connections, each answer checked.

    Args:
        port: the server's.
        cases: what to send.
        clients: connections at once.
        path: of the endpoint.
        patient: ask again where the server was gone or busy.
        tally: where to count.
    """
    found = tally or Tally()

    async def client() -> None:
        connection = Connection(port, path)
        for case in cases:
            began = time.perf_counter()
            status, body = 503, b""
            while True:
                try:
                    status, body = await connection.post(case.body)
                except (OSError, asyncio.IncompleteReadError):
                    connection.close()
                    if not patient:
                        raise
                    status = 503
                if status not in (429, 503) or not patient:
                    break
                found.retried += 1
                await asyncio.sleep(0.2)
            found.seconds.setdefault(case.kind, []).append(time.perf_counter() - began)
            problem = judge(case, status, body, found)
            if problem:
                found.wrong += 1
                found.said += [f"{case.kind}: {problem}"] if len(found.said) < 5 else []
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    found.took += time.perf_counter() - began
    return found


def judge(case: Case, status: int, body: bytes, tally: Tally) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if status != case.status:
        return f"status {status}: {body[:200]!r}"
    if status != 200:
        return "" if b'"error"' in body else f"no error in {body[:200]!r}"
    answer = json.loads(body)
    tally.tokens += answer.get("usage", {}).get("completion_tokens", 0)
    if case.disc is None and case.gen is None:
        return ""
    entry = answer["data"][0]
    for name, expected in (("embedding", case.disc), ("gen_embedding", case.gen)):
        if expected is None:
            continue
        got = entry[name]
        if isinstance(got, str):
            got = np.frombuffer(base64.b64decode(got), "<f4")
        off = float(np.abs(np.asarray(got) - expected).max())
        if not off <= TOLERANCE:
            return f"{name} is {off:.2g} from the offline vector"
    return ""
