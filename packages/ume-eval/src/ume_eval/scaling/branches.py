"""Scores of every query under one way of embedding, with what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ume_core import Embedder, EmbeddingResult, Sampling
from ume_core.errors import InvalidItem
from ume_eval.data.model import Entry, TaskData
from ume_eval.metrics import evaluate_scores
from ume_eval.metrics.evaluate import score_rows
from ume_eval.metrics.ranking import Scores

Floats = npt.NDArray[np.float64]
_AT_ONCE = 256


@dataclass(frozen=True)
class Embedded:
    """Entries embedded one way.

    Attributes:
        vectors: float32 (items, dimensions), or (items, samples, dimensions) of sampled answers.
        tokens: prompt and generated tokens of each item.
        generated: generated ones alone.
        seconds: mean time per item, embedded in batches.
        result: records of all items, in order.
        forced: items whose answer did not end by itself.
    """

    vectors: npt.NDArray[np.float32]
    tokens: Floats
    generated: Floats
    seconds: float
    texts: list[str]
    forced: int


def embed(
    embedder: Embedder,
    entries: Sequence[Entry],
    mode: str,
    *,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    advance: Callable[[int], None] | None = None,
) -> Embedded:
    """Embed entries in batches.

    Args:
        embedder: any embedder.
        entries: queries or candidates.
        mode: `disc` or `gen`.
        max_new_tokens: budget of an answer.
        sampling: several answers of each entry.
        advance: called with a number of answers or vectors when they are done.

    Raises:
        InvalidItem: an entry cannot be embedded; a study has no use for half of its data.
    """
    results: list[EmbeddingResult] = []
    began = time.perf_counter()
    for start in range(0, len(entries), _AT_ONCE):
        items = [e.item() for e in entries[start : start + _AT_ONCE]]
        options: dict[str, Any] = {}
        if mode == "gen":
            options = {"max_new_tokens": max_new_tokens, "sampling": sampling}
        results.append(embedder.embed(items, mode="gen" if mode == "gen" else "disc", **options))
        if advance is not None:
            advance(len(items) * (sampling.n if sampling else 1))
    seconds = time.perf_counter() - began
    records = [r for result in results for r in result.records]
    if any(r.status == "failed" for r in records):
        raise InvalidItem("an item failed", fix="take it out of the study's data")
    if mode == "gen":
        vectors = np.concatenate([r.gen_samples for r in results if r.gen_samples is not None])
        vectors = vectors if sampling is not None else vectors[:, 0]
    else:
        vectors = np.concatenate([r.vectors("disc") for r in results])
    generated = np.array([r.generated_tokens for r in records], dtype=float)
    return Embedded(
        vectors,
        generated + [r.prompt_tokens for r in records],
        generated,
        seconds / len(entries),
        [r.samples[0].text if r.samples else "" for r in records],
        sum(r.status == "forced" for r in records),
    )


def scores_of(data: TaskData, queries: Any, candidates: Any) -> list[Scores]:
    """Each query's cosines, in the order of its list."""
    return list(score_rows(data, queries, candidates, frozenset()))


def quality(data: TaskData, scores: Sequence[Scores]) -> Floats:
    """The task's main metric of every query."""
    return evaluate_scores(data, iter(scores)).per_query
