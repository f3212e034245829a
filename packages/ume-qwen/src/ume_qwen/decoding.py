"""What an engine with gen mode brings: answers that decode together, whoever asked for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ume_core.embedder import Sampling
from ume_core.errors import UmeError
from ume_core.results import Record, Vectors
from ume_qwen.render import RenderedPrompt


@dataclass(frozen=True)
class Output:
    """One item's outcome: its record, disc vector (dim,) and gen vectors (dim,) per sample."""

    record: Record
    disc: Vectors | None
    gen: list[Vectors]


@dataclass(frozen=True)
class GenRequest:
    """One item whose answers are wanted.

    Attributes:
        number: the caller's number for it.
        prompt: its prompt.
        budget: tokens an answer may have.
        sampling: how tokens are chosen, and how many answers are wanted; None is one, greedy.
        on_token: told the sample's number and its new text as tokens come.
        beginning: what its answers begin with, special tokens included; None leaves it to the
            engine's options.
    """

    number: int
    prompt: RenderedPrompt
    budget: int
    sampling: Sampling | None = None
    on_token: Callable[[int, str], None] | None = None
    beginning: str | None = None


class Decoding(Protocol):
    """Answers that decode together, fed from a source. For one thread."""

    @property
    def running(self) -> int:
        """Answers that are being generated."""
        ...

    @property
    def finished(self) -> bool:
        """Whether all is done and the source has ended; the source may be asked."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits here; the source is not asked."""
        ...

    def advance(self) -> list[tuple[int, Output | UmeError]]:
        """Start what there is room for, feed every answer one token; what is done, by number."""
        ...

    def cancel(self, number: int) -> None:
        """Forget a request; its room is free at once."""
        ...

    def close(self) -> None:
        """Forget everything."""
        ...
