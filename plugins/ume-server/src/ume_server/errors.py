"""Errors as strangers may read them, in OpenAI's shape.

The contract's errors speak to whoever runs the program; a server's callers must not read paths,
addresses, module names or pointers in them (the heap addresses in Pillow's texts were half of
CVE-2026-22778).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ume_core.errors import (
    DeadlineExceeded,
    InvalidItem,
    InvalidOption,
    LimitExceeded,
    MediaError,
    ModeNotSupported,
    PolicyViolation,
    UmeError,
)


@dataclass
class ApiError(Exception):
    """A refusal.

    Attributes:
        status: of HTTP.
        message: the cause and the fix.
        code: for programs.
        param: the field at fault.
        retry_after: seconds after which asking again may succeed.
        kind: OpenAI's `type`; by status if not given.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None
    kind: str | None = None

    def body(self) -> dict[str, Any]:
        """As OpenAI sends errors."""
        kind = self.kind or _KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """When to ask again, as the openai clients read it."""
        if self.retry_after is None:
            return {}
        seconds = max(1, round(self.retry_after))
        return {"retry-after": str(seconds), "retry-after-ms": str(round(self.retry_after * 1000))}


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
_FAULTS: tuple[tuple[type[UmeError], int, str], ...] = (
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (LimitExceeded, 413, "limit_exceeded"),
    (PolicyViolation, 400, "forbidden_source"),
    (MediaError, 400, "unreadable_media"),
    (ModeNotSupported, 400, "mode_not_supported"),
    (InvalidItem, 400, "invalid_item"),
    (InvalidOption, 400, "invalid_option"),
)
_SOURCE = (
    "the URL of a picture or video may not be fetched here, or what is there cannot be read. "
    "Fix: send its bytes as a data: URL"
)
_OURS = "the server could not compute this item. Fix: ask again; its operator finds why in the log"
# What foreign libraries put into their texts.
_POINTERS = re.compile(r"<[^<>]*\bat 0x[0-9a-fA-F]+[^<>]*>|\b0x[0-9a-fA-F]{4,}\b")
_PATHS = re.compile(r"(?<![\w:/.<])/(?:[\w.+-]+/)*[\w.+-]{2,}|[A-Za-z]:\\[^\s'\"]+")
_MODULES = re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\b(?!\()")
_QUOTED = 200  # characters of a text


def public(error: UmeError, *, param: str | None = None, fetched: bool = False) -> ApiError:
    """An item's error for a stranger.

    Args:
        error: as the engine raised it.
        param: the field that named the item.
        fetched: whether the item names a URL; then refusals of all kinds read alike, so that
            nobody learns what answers in this network.
    """
    where = f"item {error.item}: " if error.item is not None else ""
    for kind, status, code in _FAULTS:
        if isinstance(error, kind):
            if fetched and kind in (MediaError, PolicyViolation, LimitExceeded):
                return ApiError(400, f"{where}{_SOURCE}", "unreadable_media", param)
            cause, fix = scrubbed(error.cause), scrubbed(error.fix)
            hint = f". Fix: {fix}" if fix else ""
            return ApiError(status, f"{where}{cause}{hint}", code, param)
    return ApiError(500, f"{where}{_OURS}", "server_error", param)


def scrubbed(text: str) -> str:
    """A text without pointers, paths and module names."""
    text = _POINTERS.sub("an object", text)
    text = _PATHS.sub("a file", text)
    text = _MODULES.sub(lambda found: _KEPT.get(found[0], found[0].rpartition(".")[2]), text)
    return text if len(text) <= 2 * _QUOTED else text[:_QUOTED] + "…" + text[-_QUOTED:]


# Names of limits help an operator, and name no module.
_KEPT = {
    f"limits.{name}": f"limits.{name}"
    for name in (
        "image_pixels", "file_bytes", "video_frames", "video_pixels", "video_seconds",
        "text_chars", "input_tokens", "new_tokens", "url_seconds",
    )
}  # fmt: skip
