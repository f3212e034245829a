"""How answers begin and end, by the `thinking` options; shared by the engines that have gen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ume_core.prompts import ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from ume_qwen.prepare import Preparer
from ume_qwen.tokens import SpecialTokens


@dataclass(frozen=True)
class StopRules:
    """How answers end.

    Attributes:
        budget: tokens a row may choose itself.
        thinking_budget: of these, tokens before `think_end_ids` are fed; None for no such bound.
        think_end_ids: the tokens that end the thinking and open the answer.
        thinking_done: whether generated tokens show that the thinking has ended by itself.
    """

    special: SpecialTokens
    budget: int
    thinking_budget: int | None = None
    think_end_ids: tuple[int, ...] = ()
    thinking_done: Callable[[list[int]], bool] = lambda ids: False


def stop_rules(prepare: Preparer, budget: int) -> StopRules:
    """The rules of answers to a preparer's prompts, of at most `budget` chosen tokens."""
    encode, decode = prepare.tokenizer.encode_trusted, prepare.tokenizer.decode
    special = prepare.tokenizer.special
    if prepare.options.thinking != "short":
        return StopRules(special, budget)
    end = tuple(encode(f"{THINK_CLOSE}{ANSWER_OPEN}"))
    return StopRules(
        special, budget, prepare.options.thinking_tokens, end,
        lambda ids: THINK_CLOSE in decode(ids),
    )  # fmt: skip


def beginning(prepare: Preparer, told: str | None = None) -> list[int]:
    """The beginning of an answer that is given, not chosen.

    Args:
        prepare: whose options decide.
        told: the beginning itself, special tokens included, where the caller has one.
    """
    tokenizer = prepare.tokenizer
    if told is not None:
        return tokenizer.encode_trusted(told)
    if prepare.options.thinking == "skip":
        return [tokenizer.special.gen]
    if prepare.options.thinking == "none":
        return tokenizer.encode_trusted(f"{THINK_OPEN}{THINK_CLOSE}{ANSWER_OPEN}")
    return []
