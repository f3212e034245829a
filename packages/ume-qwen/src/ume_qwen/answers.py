r"""The parts of a generated answer.

The published model answers `<think>…</think><answer>A sentence or a paragraph.\n<|begin_of_box|>a
word<|end_of_box|>\n<gen_emb>`: the SFT rows never close `<answer>`, and the box marks come from the
model that annotated them. A budget can cut an answer anywhere, a mark in the middle included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ume_core.prompts import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    BOX_CLOSE,
    BOX_OPEN,
    GEN_TOKEN,
    THINK_CLOSE,
    THINK_OPEN,
)
from ume_core.results import Sample
from ume_qwen.tokens import Tokenizer

_UNFINISHED = "\ufffd"  # what a character decodes to whose bytes are not all there yet


class Answer(NamedTuple):
    """What an answer says; a part that is not there is empty.

    Attributes:
        thinking: the text between `<think>` and `</think>`.
        summary: the sentence or paragraph after `<answer>`; the short form where that is all.
        short: the word or phrase between the box marks.
    """

    thinking: str
    summary: str
    short: str


def split_answer(text: str) -> Answer:
    """The parts of `text`, all that a model generated for one item, special tokens shown."""
    text = text.partition(GEN_TOKEN)[0]
    before, opened, answer = text.partition(ANSWER_OPEN)
    if not opened:
        before, closed, rest = text.partition(THINK_CLOSE)
        # Without <answer> the text behind the thinking is the answer.
        answer = rest if closed else ""
        lead = text.lstrip()
        if not closed and not lead.startswith(THINK_OPEN[: len(lead)]):
            before, answer = "", text
    thinking = before.partition(THINK_CLOSE)[0]
    thinking = thinking.partition(THINK_OPEN)[2] if THINK_OPEN in thinking else thinking
    if not opened:
        thinking = _uncut(thinking, (THINK_CLOSE, THINK_OPEN))
        answer = _uncut(answer, (ANSWER_OPEN,))
    sentence, boxed, rest = answer.partition(BOX_OPEN)
    short, _, after = rest.partition(BOX_CLOSE)
    sentence = _prose(sentence, () if boxed else (BOX_OPEN,))
    short, after = _prose(short, (BOX_CLOSE,)), _prose(after, ())
    summary = "\n".join(part for part in (sentence, after) if part)
    return Answer(thinking.strip(), summary or short, short)


def _prose(text: str, marks: tuple[str, ...]) -> str:
    """Text without the marks that may stand in it, whole or cut off at its end."""
    for mark in (ANSWER_CLOSE, BOX_OPEN, BOX_CLOSE):
        text = text.replace(mark, "")
    return _uncut(text, (*marks, ANSWER_CLOSE, GEN_TOKEN)).strip()


def _uncut(text: str, marks: tuple[str, ...]) -> str:
    """Text without the beginning of a mark at its end, where the budget cut it."""
    for mark in marks:
        for length in range(len(mark) - 1, 0, -1):
            if text.endswith(mark[:length]):
                return text[:-length]
    return text


def sample(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    given: int,
    forced: str | None,
    mean_logprob: float | None = None,
) -> Sample:
    """What a result says of one answer.

    Args:
        tokenizer: of the model that wrote it.
        ids: all its tokens, `<gen_emb>` last.
        given: how many of them the model did not choose.
        forced: why `<gen_emb>` was appended, or None.
        mean_logprob: see `Sample`.
    """
    text = tokenizer.decode(list(ids))
    thinking, summary, short = split_answer(text)
    status = "ok" if forced is None else "forced"
    generated = len(ids) - given - (forced is not None)
    return Sample(status, text, thinking, summary, generated, forced, short, mean_logprob)


class AnswerText:
    """An answer's text, piece by piece; the pieces together are the whole text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._told = tokenizer, 0

    def take(self, ids: list[int]) -> str:
        """The text of the tokens that are new, kept back while a character is unfinished.

        Args:
            ids: all tokens so far; fewer than before where the answer had to start again.
        """
        if len(ids) <= self._told:
            return ""
        text = self._tokenizer.decode(ids[self._told :])
        if text.endswith(_UNFINISHED):
            return ""
        self._told = len(ids)
        return text
