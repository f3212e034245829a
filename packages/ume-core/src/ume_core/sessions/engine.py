"""What a session asks of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Generic

from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.session import Embedded
from ume_core.sessions.jobs import How, Job, Kind, P


class Engine(ABC, Generic[P]):
    """How an engine reads and computes. `P` is an item as the engine wants it."""

    steps: frozenset[Kind] = frozenset()
    """The kinds that `step` computes."""

    @abstractmethod
    def prepare(self, item: Item, how: How, scope: str) -> P:
        """Read an item's media and lay it out. Called by several threads.

        Args:
            item: what to read.
            how: what is asked for it.
            scope: whose it is; what is remembered of it serves the same scope only.

        Raises:
            UmeError: the item is bad.
        """

    @abstractmethod
    def size(self, prepared: P) -> int:
        """Bytes a prepared item holds."""

    @abstractmethod
    def key(self, prepared: P, how: How) -> Hashable:
        """Equal for items that have the same vectors; None if that cannot be said."""

    @abstractmethod
    def budget(self, asked: int | None) -> int:
        """Tokens of gen.

        Raises:
            InvalidOption: no number of tokens.
        """

    @abstractmethod
    def fits(self, group: Sequence[Job[P]], more: Job[P]) -> bool:
        """Whether one more job may be computed together with these."""

    @abstractmethod
    def compute(self, group: Sequence[Job[P]]) -> list[Embedded | UmeError]:
        """The vectors of jobs that `fits` let through together."""

    def check(self) -> None:
        """Refuse to compute where it would hang or fail.

        Raises:
            EngineUnavailable: so here.
        """

    def step(self) -> bool:
        """One step of answers that decode together; whether there was anything to do.

        An engine whose gen does not decode row by row has none: its gen is computed in groups.
        """
        return False

    def drop(self, jobs: Sequence[Job[P]]) -> None:
        """Stop the answers of jobs that nobody wants any more."""

    def end(self) -> None:
        """Forget what decodes: the computing thread ends, or a step failed."""
