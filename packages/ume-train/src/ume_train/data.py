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
    """

    thinking: str
    summary: str
    learn: Literal["all", "summary"] = "all"

    @property
    def lead(self) -> str:
        """The answer as generated, up to the summary."""
        return f"{THINK_OPEN}{self.thinking}{THINK_CLOSE}{ANSWER_OPEN}"

    @property
    def text(self) -> str:
        """The answer as generated, up to and including `<gen_emb>`."""
        return f"{self.lead}{self.summary}{GEN_TOKEN}"


@dataclass(frozen=True)
class Example:
    """One side of a pair; `answer` is needed in gen batches only."""

    item: Item
    answer: Answer | None = None


@dataclass(frozen=True)
class PairBatch:
    """Pairs whose members are each other's positives and everybody else's negatives.

    Attributes:
        queries, positives: equally long.
        gen: whether answers are trained, or only the disc vector.
        asked: whether gen batches carry the generation prompt. Without it a row is half as long,
            which lets a model from scratch learn to answer before it learns to be asked.
        teacher: float32 (pairs, dim) targets from a text embedder, NaN rows where there is none.
        blank: whether text-only items get the blank image in this batch.
    """

    queries: Sequence[Example]
    positives: Sequence[Example]
    gen: bool
    asked: bool = True
    teacher: npt.NDArray[np.float32] | None = None
    blank: bool = True


class PairSource(Protocol):
    """Training data as a function of the step, so that a resumed run sees the same batches."""

    def batch(self, step: int) -> PairBatch:
        """The batch of one optimizer step."""
        ...
