"""Scores of every query under one way of embedding, with what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ume_core import Embedder, EmbeddingResult, Sampling
from ume_core.embedder import BeginsAnswers
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
        texts: the first answer of each item; empty in disc mode.
        forced: items whose answer did not end by itself.
        confidence: mean log-probability of each answer's tokens, (items, samples); None where the
            engine does not say.
    """

    vectors: npt.NDArray[np.float32]
    tokens: Floats
    generated: Floats
    seconds: float
    texts: list[str]
    forced: int
    confidence: Floats | None = None


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
    return collect(results, mode, time.perf_counter() - began, sampled=sampling is not None)


def embed_after(
    embedder: BeginsAnswers,
    entries: Sequence[Entry],
    beginnings: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Embedded:
    """Gen vectors whose answers begin as given.

    Args:
        embedder: an engine that can be told.
        entries: queries or candidates.
        beginnings: one per entry, special tokens included.
        max_new_tokens: budget of the rest.
        advance: called with a number of vectors when they are done.

    Raises:
        InvalidItem: an entry cannot be embedded.
    """
    results: list[EmbeddingResult] = []
    began = time.perf_counter()
    for start in range(0, len(entries), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        items = [e.item() for e in entries[part]]
        results.append(embedder.embed_after(items, beginnings[part], max_new_tokens=max_new_tokens))
        if advance is not None:
            advance(len(items))
    return collect(results, "gen", time.perf_counter() - began, sampled=False)


def collect(
    results: Sequence[EmbeddingResult], mode: str, seconds: float, *, sampled: bool
) -> Embedded:
    """Several calls' results as one.

    Args:
        results: in order.
        mode: `disc` or `gen`.
        seconds: that all took together.
        sampled: whether several answers of each item are wanted.

    Raises:
        InvalidItem: an item failed.
    """
    records = [r for result in results for r in result.records]
    if any(r.status == "failed" for r in records):
        raise InvalidItem("an item failed", fix="take it out of the study's data")
    if mode == "gen":
        vectors = np.concatenate([r.gen_samples for r in results if r.gen_samples is not None])
        vectors = vectors if sampled else vectors[:, 0]
    else:
        vectors = np.concatenate([r.vectors("disc") for r in results])
    generated = np.array([r.generated_tokens for r in records], dtype=float)
    said = [[s.mean_logprob for s in r.samples] for r in records]
    known = bool(said and said[0]) and all(p is not None for row in said for p in row)
    return Embedded(
        vectors,
        generated + [r.prompt_tokens for r in records],
        generated,
        seconds / len(records),
        [r.samples[0].text if r.samples else "" for r in records],
        sum(r.status == "forced" for r in records),
        np.array(said, dtype=float) if known else None,
    )


def scores_of(data: TaskData, queries: Any, candidates: Any) -> list[Scores]:
    """Each query's cosines, in the order of its list."""
    return list(score_rows(data, queries, candidates, frozenset()))


def quality(data: TaskData, scores: Sequence[Scores]) -> Floats:
    """The task's main metric of every query."""
    return evaluate_scores(data, iter(scores)).per_query
