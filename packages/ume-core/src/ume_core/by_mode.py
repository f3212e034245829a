"""One model on two engines: each mode on the one that serves it best."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from ume_core.embedder import Embedder, OnError, Progress, Sampling
from ume_core.errors import CheckpointError, InvalidOption
from ume_core.forks import call_in_progress
from ume_core.items import ItemLike
from ume_core.results import EmbeddingResult
from ume_core.signature import Mode, Signature, check_mode


class ByMode:
    """An embedder whose first engine lacks a mode, which another brings when it is first asked.

    The two compute the same vectors (their signatures are compared), and the first is there in a
    tenth of the second's time. `both` is one pass of the second.

    Attributes:
        name: the engines' names, with `+` between.
        modes: those of both.
        first: the engine that is loaded.
    """

    def __init__(
        self,
        first: Embedder,
        second_name: str,
        modes: frozenset[Mode],
        load: Callable[[], Embedder],
    ) -> None:
        """Put two engines together.

        Args:
            first: serves the modes that it has.
            second_name: the other engine's name.
            modes: the other's modes.
            load: loads the other.
        """
        self.first = first
        self.name = f"{first.name}+{second_name}"
        self.modes: frozenset[Mode] = first.modes | modes
        self._load, self._lock = load, threading.Lock()
        self._second: Embedder | None = None

    def __repr__(self) -> str:
        return f"<{self.signature('disc').model} on {self.name}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A loaded model has no pickled form.

        Raises:
            InvalidOption: always; with what to do instead.
        """
        raise InvalidOption(
            "a loaded model cannot be pickled or copied", fix="load it in each process"
        )

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self.first.dimensions

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode, whichever engine makes them."""
        return self.first.signature(mode)

    def part(self, mode: str) -> Embedder:
        """The engine that serves a mode, loaded if it was not yet.

        Raises:
            InvalidOption: no such mode.
            CheckpointError: the engines do not compute the same vectors.
        """
        if check_mode(mode) in self.first.modes:
            return self.first
        with call_in_progress(), self._lock:
            if self._second is None:
                second = self._load()
                found = self.first.signature("disc").differences(second.signature("disc"))
                if found:
                    raise CheckpointError(
                        f"{self.name} do not compute the same vectors ({'; '.join(found)})",
                        fix="export the graphs again, or load with one engine: engine='torch'",
                    )
                self._second = second
        return self._second

    def embed(
        self,
        items: Sequence[ItemLike],
        *,
        mode: Mode = "disc",
        instruction: str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> EmbeddingResult:
        """See `Embedder.embed`."""
        return self.part(mode).embed(
            items,
            mode=mode,
            instruction=instruction,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            on_error=on_error,
            progress=progress,
        )
