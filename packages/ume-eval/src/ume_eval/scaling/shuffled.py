"""Answers that begin with another item's thinking: how much does a vector depend on its own?

Users found vectors of the published model hardly changed by it (upstream issue 12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ume_core import Embedder
from ume_core.embedder import BeginsAnswers
from ume_core.errors import InvalidOption
from ume_core.prompts import ANSWER_OPEN, GEN_TOKEN, THINK_CLOSE, THINK_OPEN
from ume_eval.data.model import Entry, TaskData
from ume_eval.scaling.branches import Embedded, embed, embed_after


class Shuffled:
    """Thinking, or whole answers, dealt out to other items of the same side."""

    def __init__(
        self,
        engine: Embedder,
        *,
        whole: bool = False,
        max_new_tokens: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Check that the engine can be told how answers begin.

        Args:
            engine: gives the answers and takes them.
            whole: deal the summary out too, not thinking alone.
            max_new_tokens: budget of an answer.
            advance: called with a number of vectors when they are done.

        Raises:
            InvalidOption: it cannot.
        """
        if not isinstance(engine, BeginsAnswers):
            raise InvalidOption(
                f"the {engine.name} engine cannot be told how answers begin",
                fix='use engine="torch", or leave shuffled thinking out',
            )
        self._engine, self._told, self._whole = engine, engine, whole
        self._budget, self._advance = max_new_tokens, advance

    def __call__(self, data: TaskData) -> tuple[Embedded, Embedded]:
        """Queries and candidates."""
        return self._side([q.entry for q in data.queries]), self._side(data.candidates)

    def _side(self, entries: Sequence[Entry]) -> Embedded:
        own = embed(self._engine, entries, "gen", max_new_tokens=self._budget)
        # A rotation by half the pool: nobody keeps its own.
        dealt = [own.texts[(n + len(entries) // 2) % len(entries)] for n in range(len(entries))]
        return embed_after(
            self._told, entries, [self._beginning(text) for text in dealt],
            max_new_tokens=self._budget, advance=self._advance,
        )  # fmt: skip

    def _beginning(self, text: str) -> str:
        if self._whole:
            return text.partition(GEN_TOKEN)[0] + GEN_TOKEN
        thinking = text.partition(THINK_OPEN)[2].partition(THINK_CLOSE)[0]
        return f"{THINK_OPEN}{thinking}{THINK_CLOSE}{ANSWER_OPEN}"
