"""Every error the contract can raise; each message says the cause, then the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UmeError(Exception):
    """Base of all errors of this project.

    Attributes:
        item: index of the offending item in the caller's list, where one is known.
        cause: what is wrong, without the item prefix and the fix.
        fix: what the caller can do about it.
    """

    def __init__(self, cause: str, *, fix: str = "", item: int | None = None) -> None:
        self.cause = cause.rstrip(".")
        self.fix = fix
        self.item = item
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"item {self.item}: " if self.item is not None else ""
        hint = f" Fix: {self.fix}" if self.fix else ""
        return f"{where}{self.cause}.{hint}"

    def at(self, item: int) -> UmeError:
        """The same error, naming the item it belongs to (the first name given stays)."""
        if self.item is None:
            self.item = item
            self.args = (str(self),)
        return self


class InvalidItem(UmeError, ValueError):
    """The item itself is not something that can be embedded."""


class InvalidOption(UmeError, ValueError):
    """An argument other than the items is wrong: a mode, a sampling value, a limit."""


class MediaError(UmeError, ValueError):
    """An image or video could not be read or decoded."""


class LimitExceeded(UmeError, ValueError):
    """The item is larger than a limit; found before memory was spent on it."""


class DeadlineExceeded(UmeError, TimeoutError):
    """The answer was not there by the deadline its caller set."""


class PolicyViolation(UmeError, PermissionError):
    """The access policy forbids this file or URL."""


class ModeNotSupported(UmeError, NotImplementedError):
    """The engine does not have this mode; the fix names one that does."""


class SignatureMismatch(UmeError, ValueError):
    """Two sets of vectors come from different models, modes or settings."""


class CheckpointError(UmeError, ValueError):
    """A directory or hub id is not a usable UME-R1 checkpoint."""


class EngineUnavailable(UmeError, RuntimeError):
    """No engine can serve the request here; the fix says what to install."""


class PluginError(UmeError, RuntimeError):
    """A plugin is broken, or two plugins claim one name."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'X'? `, for the beginning of a fix; empty if nothing known is like the word."""
    names, meant = sorted(known), str(word).lower()
    near = get_close_matches(meant, names, n=1, cutoff=0.6)
    near = near or [name for name in names if len(meant) > 2 and name.startswith(meant)]
    return f"did you mean {near[0]!r}? " if near else ""
