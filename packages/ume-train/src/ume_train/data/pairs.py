"""What training reads: pairs of items that belong together, with the answers to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ume_core.items import Item
from ume_core.prompts import ANSWER_OPEN, GEN_TOKEN, THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True)
class Answer:
    """What the model should generate for an item.

    Attributes:
        thinking, summary: the two parts of the published form
            `<think>…</think><answer>…<gen_emb>`.
        learn: which tokens are targets of the cross-entropy. A wrong answer, which is only there
            to keep the gen vector from reading the label off the text, learns `summary` alone:
            that the summary restates the thinking.
        whole: the answer as a file has it, in place of the two parts.
    """

    thinking: str = ""
    summary: str = ""
    learn: Literal["all", "summary"] = "all"
    whole: str | None = None

    @property
    def lead(self) -> str:
        """The answer as generated, up to the summary."""
        return f"{THINK_OPEN}{self.thinking}{THINK_CLOSE}{ANSWER_OPEN}"

    @property
    def text(self) -> str:
        """The answer as generated, up to and including `<gen_emb>`."""
        return self.whole if self.whole is not None else f"{self.lead}{self.summary}{GEN_TOKEN}"


@dataclass(frozen=True)
class Example:
    """One side of a pair.

    Attributes:
        item: what is embedded.
        answer: what is learned; needed in gen batches of SFT only.
        place: where it came from, for messages: file, record and side.
    """

    item: Item
    answer: Answer | None = None
    place: str = ""


@dataclass(frozen=True)
class PairBatch:
    """Pairs whose members are each other's positives and everybody else's negatives.

    Attributes:
        queries, positives: equally long.
        gen: whether answers are trained, or only the disc vector.
        asked: whether gen batches carry the generation prompt. Without it a row is half as long,
            which lets a model from scratch learn to answer before it learns to be asked.
        teacher: float32 (pairs, dim) targets from a text embedder, NaN rows where there is none.
        blank: whether text-only items get the blank image in this batch; None as the conventions.
        dataset: what the pairs are from, for the log.
    """

    queries: Sequence[Example]
    positives: Sequence[Example]
    gen: bool
    asked: bool = True
    teacher: npt.NDArray[np.float32] | None = None
    blank: bool | None = None
    dataset: str = ""


class PairSource(Protocol):
    """Training data as a function of the step, so that a resumed run sees the same batches."""

    def batch(self, step: int) -> PairBatch:
        """The batch of one optimizer step."""
        ...
