"""What a request weighs, and whether there is room for it, before anything is decoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ume_core.errors import UmeError
from ume_core.items import Image, Item
from ume_core.limits import Limits
from ume_core.media.isolation import is_boxed
from ume_core.media.pictures import header_size
from ume_server.errors import ApiError
from ume_server.settings import Settings
from ume_server.wire.ask import Ask

_CHARS_PER_TOKEN = 3  # of English and code; a guess that only admission is made by
_PIXELS_PER_TOKEN = 28 * 28  # Qwen2-VL: one token for 28 x 28 pixels
_MEDIA_TOKENS = 2560  # most tokens of one picture under the published bound of pixels
_VIDEO_TOKENS = 16_384  # of a clip at that bound of all its frames
_PROMPT_TOKENS = 40  # of an item without content
_RATE_SECONDS = 30.0  # of answers from which the time to wait is reckoned


@dataclass(frozen=True)
class Weight:
    """What a request asks for.

    Attributes:
        items: how many.
        tokens: of all, as estimated.
        image_pixels: of its pictures, by their headers.
        video_pixels: of its videos, at the bound of one.
    """

    items: int
    tokens: int
    image_pixels: int = 0
    video_pixels: int = 0


def weigh(items: Sequence[Item | UmeError], limits: Limits) -> Weight:
    """Look at texts and at the headers of media; nothing is decoded.

    Args:
        items: the request's.
        limits: the bounds of one: a video counts as its bound, and a picture whose header only its
            own library can read.
    """
    tokens = images = videos = 0
    for item in items:
        if isinstance(item, UmeError):
            continue
        length = len(item.text) + len(item.instruction or "")
        tokens += _PROMPT_TOKENS + length // _CHARS_PER_TOKEN
        for part in item.media:
            if isinstance(part, Image):
                pixels = _pixels(part.source, limits)
                images += pixels
                tokens += min(_MEDIA_TOKENS, pixels // _PIXELS_PER_TOKEN + 1)
            else:
                videos += limits.video_pixels
                tokens += _VIDEO_TOKENS
    return Weight(len(items), tokens, images, videos)


def _pixels(source: object, limits: Limits) -> int:
    """Of a picture, by its header; 0 where that says nothing: then the item itself is refused."""
    if not isinstance(source, bytes):
        return 0
    if is_boxed(source):
        return limits.image_pixels
    width, height = header_size(source) or (0, 0)
    return width * height


def check_request(ask: Ask, weight: Weight, settings: Settings) -> None:
    """Refuse a request beyond the bounds of one.

    Raises:
        ApiError: 413, with the bound and the fix.
    """
    answers = weight.items * (ask.sampling.n if ask.sampling is not None else 1)
    pixels = weight.image_pixels + weight.video_pixels
    for count, bound, what, fix in (
        (weight.items, settings.items, "items", "send them in several requests"),
        (answers, settings.samples, "answers", "ask for fewer items or a smaller sampling.n"),
        (pixels, settings.pixels, "pixels (a video counts as the most it may have)",
         "send fewer or smaller pictures and clips at once"),
        (weight.tokens, settings.tokens, "tokens, as estimated", "send fewer or shorter items"),
    ):  # fmt: skip
        if count > bound:
            raise ApiError(
                413,
                f"the request has {count:,} {what}, and {bound:,} may come at once. Fix: {fix}",
                "request_too_large",
            )


class Admission:
    """Room for what waits and runs. For one event loop.

    Attributes:
        items, tokens, received: in flight.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.items = self.tokens = self.received = 0
        self._done: deque[tuple[float, int]] = deque()

    @contextmanager
    def admitted(self, weight: Weight) -> Generator[None]:
        """Hold room for a request while it is answered; one that is alone always has it.

        Raises:
            ApiError: 429, with the time after which there will be room.
        """
        settings = self._settings
        over = (
            self.items + weight.items > settings.waiting_items
            or self.tokens + weight.tokens > settings.waiting_tokens
        )
        if self.items and over:
            raise self._busy("queue")
        self.items += weight.items
        self.tokens += weight.tokens
        try:
            yield
        finally:
            self.items -= weight.items
            self.tokens -= weight.tokens
            self._done.append((time.monotonic(), weight.tokens))

    def receive(self, size: int) -> None:
        """Hold room for bytes that come in; `release` gives it back.

        Raises:
            ApiError: 429.
        """
        if self.received + size > self._settings.waiting_bytes:
            raise self._busy("bytes")
        self.received += size

    def release(self, size: int) -> None:
        """Bytes are gone."""
        self.received -= size

    def _busy(self, code: str) -> ApiError:
        return ApiError(
            429,
            "the server is busy. Fix: ask again after the time in the header retry-after",
            f"too_much_waiting_{code}",
            retry_after=self._patience(),
        )

    def _patience(self) -> float:
        """Seconds in which half of what waits will be done, at the pace of late."""
        now = time.monotonic()
        while self._done and self._done[0][0] < now - _RATE_SECONDS:
            self._done.popleft()
        if not self._done:
            return 5.0
        pace = sum(tokens for _, tokens in self._done) / max(0.5, now - self._done[0][0])
        return min(60.0, max(1.0, self.tokens / 2 / max(1.0, pace)))
