"""Generate, then one exact prefill: gen on an engine that has states of tokens it was fed only.

The token that ends a request is never fed: stopping at `<gen_emb>` would leave the state before it.
So an answer is generated first, and then prompt and answer, up to its first `<gen_emb>`, are one
more prompt whose last state is wanted. An engine that returns the state of the last token it was
fed saves that prefill where exactly one token came after `<gen_emb>`.

Nothing here knows the engine: an answer is a generator that yields what it needs next.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ume_core.errors import UmeError
from ume_core.results import Vectors
from ume_qwen.thinking import StopRules
from ume_qwen.tokens import SpecialTokens


@dataclass(frozen=True)
class Generate:
    """Tokens are wanted after prompt and `ids`; the answer is `Generated`.

    The engine stops behind the first token of `SpecialTokens.end` or `pad`, or after `budget`
    tokens. It may stop behind `SpecialTokens.gen`, or write on: what follows is dropped.

    Attributes:
        ids: the answer so far.
        budget: most tokens.
        part: 0 for an answer's first request, 1 for its second, so that each draws anew.
    """

    ids: tuple[int, ...]
    budget: int
    part: int = 0


@dataclass(frozen=True)
class Generated:
    """What an engine wrote.

    Attributes:
        ids: its tokens, with the one that ended it.
        state: of the last but one of them, which is the last that was fed, (dim,); None from an
            engine that keeps no states.
    """

    ids: tuple[int, ...]
    state: Vectors | None = None


@dataclass(frozen=True)
class Prefill:
    """The state of the last token of prompt and `ids` is wanted, (dim,).

    Attributes:
        ids: what follows the prompt.
    """

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    """An answer and its vector.

    Attributes:
        ids: all its tokens, `<gen_emb>` last.
        given: how many of them the model did not choose, an appended `<gen_emb>` left out.
        forced: why `<gen_emb>` was appended, or None.
        state: of `<gen_emb>`, (dim,).
    """

    ids: tuple[int, ...]
    given: int
    forced: str | None
    state: Vectors


Need: TypeAlias = Generate | Prefill
# Sent back: `Generated` for `Generate`, a state for `Prefill`.
Answer: TypeAlias = Generator[Need, Any, Answered]


def answer(rules: StopRules, beginning: Sequence[int]) -> Answer:
    """One answer.

    Args:
        rules: how it ends.
        beginning: its first tokens, which are given; with `<gen_emb>` among them nothing is
            generated.

    Raises:
        UmeError: the engine ended the answer for no reason that is known here.
    """
    ids, given, forced = list(beginning), len(beginning), None
    state: Vectors | None = None
    if rules.special.gen not in ids:
        ids, given, forced, state = yield from _written(rules, ids)
    if state is None:
        state = yield Prefill(tuple(ids))
    assert state is not None
    return Answered(tuple(ids), given, forced, state)


def _written(
    rules: StopRules, ids: list[int]
) -> Generator[Need, Any, tuple[list[int], int, str | None, Vectors | None]]:
    """The answer's tokens, how many were given, why its end was forced, its state if known."""
    given, used, part = len(ids), 0, 0
    bound = rules.thinking_budget
    if bound is not None and bound >= rules.budget:
        bound = None  # the answer's own budget comes first
    while used < rules.budget:
        # One token more than the thinking may have shows whether the answer would end there.
        most = rules.budget - used if bound is None else bound + 1 - used
        found: Generated = yield Generate(tuple(ids), most, part)
        part += 1
        new, ended = until_end(found.ids[:most], rules.special)
        if not ended and len(new) < most:
            raise UmeError(
                f"the engine ended an answer after {len(new)} of {most} tokens",
                fix="see the engine's own log",
            )
        if not ended and bound is not None and not rules.thinking_done([*ids, *new[:-1]]):
            new = [*new[:-1], *rules.think_end_ids]
            given += len(rules.think_end_ids)
            used -= len(rules.think_end_ids)
        bound = None
        ids = [*ids, *new]
        used += len(new)
        if ended == rules.special.gen:
            fed = found.state if len(found.ids) == len(new) + 1 else None
            return ids, given, None, fed
        if ended:
            reason = "the model ended its answer without <gen_emb>"
            return [*ids, rules.special.gen], given, reason, None
    reason = f"no <gen_emb> within {rules.budget} tokens"
    return [*ids, rules.special.gen], given, reason, None


def until_end(ids: Sequence[int], special: SpecialTokens) -> tuple[list[int], int | None]:
    """Tokens up to the first that ends an answer, and that token; only `<gen_emb>` is kept."""
    for place, token in enumerate(ids):
        if token == special.gen:
            return list(ids[: place + 1]), token
        if token in (special.end, special.pad):
            return list(ids[:place]), token
    return list(ids), None
