"""What thinking is worth on one task: disc, gen, both, a router, samples, ways of thinking.

Every figure has a bootstrap interval over queries and its cost beside it: tokens and seconds of a
query, and of the indexes that have to be built once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ume_core import Embedder, Sampling
from ume_eval.data.model import TaskData
from ume_eval.metrics.bootstrap import difference, interval
from ume_eval.scaling import fusion, router
from ume_eval.scaling.branches import Embedded, Floats, embed, quality, scores_of
from ume_eval.scaling.samples import confidence_pool, mean_pool, medoid, pass_at_k

Answers = Callable[[TaskData], tuple[Embedded, Embedded]]


@dataclass(frozen=True)
class StudyOptions:
    """What is measured.

    Attributes:
        samples: sampled answers per query; 0 leaves sampling out.
        temperature: of sampling.
        max_new_tokens: budget of an answer.
        seed: of sampling.
        variants: further ways of thinking, such as `none`: embedders by name.
        answers: ways of embedding that need more than one engine's `embed`, such as
            `ume_eval.scaling.shuffled`: functions that return queries and candidates, by name.
        advance: called with a number of vectors when they are done; see `work`.
    """

    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0
    variants: Mapping[str, Embedder] = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)
    advance: Callable[[int], None] | None = None

    def work(self, queries: int, candidates: int) -> int:
        """Vectors that a study of so many entries computes, for progress."""
        ways = 2 + len(self.variants) + len(self.answers)
        return (queries + candidates) * ways + queries * self.samples


def study(data: TaskData, embedder: Embedder, options: StudyOptions) -> dict[str, Any]:
    """Measure one task; plain values, for JSON and for the page."""
    queries = [q.entry for q in data.queries]
    budget = options.max_new_tokens
    sides = {
        mode: (
            embed(embedder, queries, mode, max_new_tokens=budget, advance=options.advance),
            embed(embedder, data.candidates, mode, max_new_tokens=budget, advance=options.advance),
        )
        for mode in ("disc", "gen")
    }
    scores = {m: scores_of(data, q.vectors, c.vectors) for m, (q, c) in sides.items()}
    values = {m: quality(data, s) for m, s in scores.items()}
    costs = {m: _cost(q, c) for m, (q, c) in sides.items()}
    both = _sum(costs["disc"], costs["gen"])

    points: dict[str, dict[str, Any]] = {m: _point(values[m], costs[m]) for m in sides}
    oracle = np.maximum(values["disc"], values["gen"])
    points["oracle of disc and gen"] = _point(oracle, both)
    for name, standardised in (("raw", False), ("z-scores", True)):
        fused, weights = fusion.cross_fitted(
            scores["disc"], scores["gen"], lambda s: quality(data, s), standardised=standardised
        )
        points[f"fusion, {name}"] = _point(fused, both) | {"weights": weights}
    rrf = [
        fusion.reciprocal_ranks(d, g) for d, g in zip(scores["disc"], scores["gen"], strict=True)
    ]
    points["fusion, reciprocal ranks"] = _point(quality(data, rrf), both)
    for name, variant in options.variants.items():
        q, c = (
            embed(variant, side, "gen", max_new_tokens=budget, advance=options.advance)
            for side in (queries, data.candidates)
        )
        points[f"gen, {name}"] = _variant(data, q, c, sides["gen"])
    for name, answers in options.answers.items():
        points[f"gen, {name}"] = _variant(data, *answers(data), sides["gen"])
    found = {
        "task": data.task.name,
        "metric": data.task.metric,
        "queries": len(queries),
        "candidates": len(data.candidates),
        "points": points,
        "against_disc": {
            n: _against(p["values"], values["disc"]) for n, p in points.items() if n != "disc"
        },
        "router": _router(scores, values, costs),
        "thinking_helps": {
            "gen right, disc wrong": float((values["gen"] > values["disc"]).mean()),
            "disc right, gen wrong": float((values["gen"] < values["disc"]).mean()),
        },
        "forced": sides["gen"][0].forced + sides["gen"][1].forced,
    }
    if options.samples:
        found["samples"] = _samples(data, embedder, options, sides["gen"], values["gen"])
    for point in points.values():
        del point["values"]
    return found


def _cost(queries: Embedded, candidates: Embedded) -> dict[str, float]:
    return {
        "query_tokens": float(queries.tokens.mean()),
        "query_generated": float(queries.generated.mean()),
        "query_seconds": queries.seconds,
        "index_tokens": float(candidates.tokens.sum()),
        "index_seconds": candidates.seconds * len(candidates.tokens),
    }


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {k: first[k] + second[k] for k in first}


def _point(values: Floats, cost: Mapping[str, float]) -> dict[str, Any]:
    low, high = interval(values)
    return {"quality": float(values.mean()), "low": low, "high": high, **cost, "values": values}


def _against(values: Floats, base: Floats) -> dict[str, float]:
    mean, low, high = difference(values, base)
    return {"difference": mean, "low": low, "high": high}


def _variant(
    data: TaskData, queries: Embedded, candidates: Embedded, full: tuple[Embedded, Embedded]
) -> dict[str, Any]:
    """Another way of thinking, and how near its vectors are to those of full thinking."""
    found = quality(data, scores_of(data, queries.vectors, candidates.vectors))
    cosine = float((queries.vectors * full[0].vectors).sum(axis=1).mean())
    return _point(found, _cost(queries, candidates)) | {"cosine_to_full": cosine}


def _router(
    scores: Mapping[str, Any], values: Mapping[str, Floats], costs: Mapping[str, Any]
) -> dict[str, list[dict[str, float]]]:
    """Curves over the share of queries that think."""
    curves: dict[str, list[dict[str, float]]] = {}
    disc, gen = values["disc"], values["gen"]
    rules: dict[str, Callable[[float], tuple[Floats, float]]] = {}
    borders: dict[str, Floats] = {}
    for name, standardised in (("margin, raw", False), ("margin, z-scored", True)):
        known = router.margins(scores["disc"], standardised=standardised)
        rules[name] = _by_margin(known, disc, gen)
        borders[name] = known
    rules["random"] = lambda share: (router.random_quality(disc, gen, share), share)
    rules["per-query oracle"] = lambda share: _by_oracle(disc, gen, share)
    for name, rule in rules.items():
        points: list[dict[str, float]] = []
        for share in router.SHARES:
            found, used = rule(share)
            low, high = interval(found)
            cost = {
                k: costs["disc"][k] + used * costs["gen"][k] for k in costs["disc"] if "query" in k
            }
            point = {"share": used, "quality": float(found.mean()), "low": low, "high": high}
            if name in borders and 0 < share < 1:  # JSON has no infinities
                point["threshold"] = router.threshold(borders[name], share)
            points.append(point | cost)
        curves[name] = points
    return curves


def _by_margin(known: Floats, disc: Floats, gen: Floats) -> Callable[[float], tuple[Floats, float]]:
    def rule(share: float) -> tuple[Floats, float]:
        mask = router.routed(known, share)
        return np.where(mask, gen, disc), float(mask.mean())

    return rule


def _by_oracle(disc: Floats, gen: Floats, share: float) -> tuple[Floats, float]:
    mask = router.oracle_mask(disc, gen, share)
    return np.where(mask, gen, disc), float(mask.mean())


def _samples(
    data: TaskData,
    embedder: Embedder,
    options: StudyOptions,
    greedy: tuple[Embedded, Embedded],
    greedy_values: Floats,
) -> dict[str, Any]:
    """Sampled answers of queries against the greedy index: pass@k and pooling."""
    n = options.samples
    sampling = Sampling(n=n, temperature=options.temperature, seed=options.seed)
    sampled = embed(
        embedder, [q.entry for q in data.queries], "gen",
        max_new_tokens=options.max_new_tokens, sampling=sampling, advance=options.advance,
    )  # fmt: skip
    index = greedy[1].vectors
    each = np.stack(
        [quality(data, scores_of(data, sampled.vectors[:, k], index)) for k in range(n)]
    )
    hits = (each == 1).sum(axis=0)  # for NDCG: the best order
    curve: list[dict[str, float]] = []
    for k in range(1, n + 1):
        values = pass_at_k(hits, n, k)
        low, high = interval(values)
        curve.append({"k": k, "quality": float(values.mean()), "low": low, "high": high})
    pooled: dict[str, Any] = {}
    vectors = {"mean": mean_pool(sampled.vectors), "medoid": medoid(sampled.vectors)}
    if sampled.confidence is not None:
        vectors["confidence"] = confidence_pool(sampled.vectors, sampled.confidence)
    for name, one in vectors.items():
        values = quality(data, scores_of(data, one, index))
        pooled[name] = {"quality": float(values.mean()), **_against(values, greedy_values)}
    return {
        "n": n,
        "temperature": options.temperature,
        "query_tokens": float(sampled.tokens.mean()),
        "query_generated": float(sampled.generated.mean()),
        "query_seconds": sampled.seconds,
        "pass_at_k": curve,
        "single_mean": float(each.mean()),
        "pooled": pooled,
    }
