"""What a server takes from strangers, and how long it waits for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ume_core.limits import Limits, Policy


@dataclass(frozen=True)
class Settings:
    """Bounds of a server. What exceeds a request's is refused before anything is decoded.

    Attributes:
        keys: API keys; without any, everybody may ask.
        hosts: names that the Host header may have, without ports, beside addresses; empty takes
            any.
        items: items of a request.
        samples: answers of a request, items times samples.
        body_bytes: bytes of a request.
        pixels: pixels of all its pictures together; a video counts as its `Limits.video_pixels`.
        tokens: tokens of all its items together, as estimated before they are read.
        depth: nesting of its JSON.
        waiting_items: items of all requests that wait or run.
        waiting_tokens: their tokens, as estimated.
        waiting_bytes: bytes of all requests being received or answered.
        connections: open connections.
        head_seconds: for a request's headers to come.
        body_seconds: for its body to come.
        send_seconds: for a client to take what it was sent.
        answer_seconds: for an answer, from when the request came.
        drain_seconds: for what runs to finish when the server is told to stop.
        url_hosts: hosts that media URLs may name; none are fetched if empty.
        limits: of one item.
    """

    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    items: int = 2048
    samples: int = 4096
    body_bytes: int = 64 * 1024 * 1024
    pixels: int = 800_000_000
    tokens: int = 2_000_000
    depth: int = 32
    waiting_items: int = 8192
    waiting_tokens: int = 8_000_000
    waiting_bytes: int = 512 * 1024 * 1024
    connections: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    send_seconds: float = 60.0
    answer_seconds: float = 600.0
    drain_seconds: float = 30.0
    url_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=lambda: SERVER_LIMITS)


# Of one item, below the library's own, but for what signatures name.
SERVER_LIMITS = Limits(
    image_pixels=50_000_000,
    file_bytes=32 * 1024 * 1024,
    video_pixels=200_000_000,
    video_seconds=1200.0,
    text_chars=400_000,
    url_seconds=10.0,
    decode_seconds=30.0,
)
# Data in the request itself only, and nothing of it decoded here that could take all others down.
SERVER_POLICY = Policy(files=False, urls=False, isolate=True)
