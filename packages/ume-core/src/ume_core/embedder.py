"""The protocol every engine fulfils and every adapter talks to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from ume_core.errors import InvalidItem, InvalidOption, LimitExceeded, ModeNotSupported, UmeError
from ume_core.items import Item, ItemLike, as_item, check_batch, with_instruction
from ume_core.results import EmbeddingResult
from ume_core.signature import Mode, Signature, check_mode

OnError: TypeAlias = Literal["raise", "record"]
Progress: TypeAlias = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """Repeated sampling in gen mode; leave it out for greedy decoding.

    Attributes:
        n: generations per item, at most 256.
        temperature: divides the logits; positive.
        top_p: least total probability of the tokens kept, in (0, 1].
        top_k: most tokens kept; 0 keeps all.
        seed: every item's own generator starts from it, so that an item's samples depend neither
            on its place in the list nor on its batch.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("n", 1, 256), ("top_k", 0, 2**31), ("seed", 0, 2**40)):
            value: object = getattr(self, name)
            if not isinstance(value, Integral) or not low <= int(value) <= high:
                raise InvalidOption(
                    f"sampling {name} is {value!r}", fix=f"pass a whole number from {low} to {high}"
                )
            object.__setattr__(self, name, int(value))  # numpy's numbers become plain ones
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise InvalidOption(f"sampling {name} is {value!r}", fix="pass a number")
            object.__setattr__(self, name, float(value))
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidOption(
                f"sampling temperature is {self.temperature}",
                fix="pass a positive number, or no sampling for greedy",
            )
        if not 0 < self.top_p <= 1:
            raise InvalidOption(f"sampling top_p is {self.top_p}", fix="pass a value in (0, 1]")


@runtime_checkable
class Embedder(Protocol):
    """Turns items into vectors.

    Promises: vectors are float32, L2-normalised, in input order; an item's vector does not depend
    on its batch-mates (the engine states the tolerance of its dtype); greedy unless `sampling` is
    given; nothing falls back silently.
    """

    @property
    def name(self) -> str:
        """The engine's name, as in `ume plugins`."""
        ...

    @property
    def modes(self) -> frozenset[Mode]:
        """Modes it can serve."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode."""
        ...

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
        """Embed a list of items.

        Args:
            items: any spelling `as_item` accepts, in a list, another sequence (read by several
                threads at once, such as a datasets Column), a column of pandas, polars or pyarrow,
                or a one-dimensional array of strings.
            mode: `disc`, `gen` or `both`.
            instruction: task instruction for items that have none of their own.
            sampling: repeated sampling (gen and both only).
            max_new_tokens: budget of gen; None takes `Limits.new_tokens`.
            on_error: `record` turns a bad item into a failed record and keeps the others.
            progress: called with (done, total) as items finish.

        Raises:
            UmeError: see `ume_core.errors`; the message names the item and the fix.
        """
        ...


@runtime_checkable
class BeginsAnswers(Protocol):
    """An engine that can be told how each item's answer begins."""

    def embed_after(
        self,
        items: Sequence[ItemLike],
        beginnings: Sequence[str],
        *,
        max_new_tokens: int | None = None,
    ) -> EmbeddingResult:
        """Gen vectors of answers that begin with given texts; the model writes the rest.

        Args:
            items: as in `Embedder.embed`.
            beginnings: one per item; special tokens in them are taken as such, so they must come
                from a model, not from a stranger.
            max_new_tokens: budget of what the model writes itself.

        Returns:
            A result whose signature says `given` for its thinking.

        Raises:
            UmeError: as `Embedder.embed`, or there is not one beginning per item.
        """
        ...


def require_mode(
    mode: str, modes: frozenset[Mode], engine: str, model: str | Path | None = None
) -> Mode:
    """`mode`, if the engine has it.

    Args:
        mode: what was asked for.
        modes: the engine's.
        engine: its name.
        model: what it loaded, so that the fix names engines that load it too.

    Raises:
        InvalidOption: no such mode. ModeNotSupported: not on this engine.
    """
    known = check_mode(mode)
    if known not in modes:
        from ume_core.loading import engines_with  # which imports this module

        others = ", ".join(engines_with(known, model))
        none = (
            "none is installed"
            if model is None
            else f"no installed one loads {model}; load the checkpoint that it was made from"
        )
        raise ModeNotSupported(
            f"the {engine} engine has no {known} mode, only {', '.join(sorted(modes))}",
            fix=f"use an engine that has it: {others or none}",
        )
    return known


def prepare_item(
    values: Sequence[ItemLike],
    index: int,
    prepare: Callable[[Item], T],
    *,
    instruction: str | None,
    on_error: OnError,
) -> T | UmeError:
    """Parse and prepare one item of a batch; with `record`, a bad one becomes its error.

    Raises:
        UmeError: the item is bad, unless recorded.
    """
    try:
        return prepare(with_instruction(as_item(values[index]), instruction))
    except Exception as caught:  # so that one bad item cannot take the others down
        error = as_ume_error(caught)
        if on_error == "raise":
            raise error.at(index) from (None if error is caught else caught)
        return error


def check_embed(values: object, on_error: str) -> Sequence[ItemLike]:
    """The members of a batch that is not empty.

    Raises:
        InvalidItem: it is empty or no batch. InvalidOption: an unknown `on_error`.
    """
    batch = check_batch(values)
    if on_error not in ("raise", "record"):
        raise InvalidOption(f"unknown on_error {on_error!r}", fix="use 'raise' or 'record'")
    if not batch:
        raise InvalidItem("the list of items is empty", fix="pass at least one item")
    return batch


def as_ume_error(caught: Exception) -> UmeError:
    """What reading an item raised, as an error that says the cause and the fix."""
    if isinstance(caught, UmeError):
        return caught
    if isinstance(caught, MemoryError):
        return LimitExceeded("the item does not fit in memory", fix="shrink it")
    if isinstance(caught, RecursionError):
        return InvalidItem("the item is nested too deeply", fix="put its parts into one list")
    return InvalidItem(
        f"reading the item raised {type(caught).__name__}: {caught}",
        fix="embed it alone with on_error='raise': the traceback shows which object raised it",
    )
