"""A query answered by an index under a retrieval policy: disc, gen, fused, or gen where unsure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, SignatureMismatch
from ume_core.items import ItemLike
from ume_core.results import EmbeddingResult, Record
from ume_core.retrieval import SearchPolicy, fused, margin
from ume_core.signature import Mode
from ume_r1.index.hits import Hit
from ume_r1.index.store import Index

_SHOWN = ("min_score", "unique")  # of what was found; the others say what is looked at


@dataclass(frozen=True)
class Answer:
    """What an index found.

    Attributes:
        hits: best first.
        record: what happened to the query.
        mode: the vectors that decided: `disc`, `gen`, or `both` where they were fused.
    """

    hits: list[Hit]
    record: Record
    mode: Mode


def find(
    index: Index,
    model: Embedder,
    query: ItemLike,
    policy: SearchPolicy,
    top: int,
    *,
    instruction: str | None = None,
    **wanted: Any,
) -> Answer:
    """Search an index.

    Args:
        index: holds the vectors that the policy compares: both for `fused` and `routed`.
        model: as `Index.load_model` gives it.
        query: any spelling of an item.
        policy: which vectors decide.
        top: number of hits at most.
        instruction: task instruction, if the query has none of its own.
        wanted: `kind`, `under`, `since`, `until`, `min_score`, `unique` and `exact` of
            `Index.search`.

    Raises:
        SignatureMismatch: the index does not hold what the policy compares.
        UmeError: the query cannot be embedded, or the index is damaged.
    """
    held = index.description.mode
    needed = "both" if policy.kind in ("fused", "routed") else policy.kind
    if held not in ("both", needed):
        other = held if needed != "both" else f"--policy {held}"
        raise SignatureMismatch(
            f"{index.directory} holds {held} vectors, the policy {policy.kind} compares {needed}",
            fix=f"search with {other}, or index again with --mode {needed} into a new directory",
        )

    def embedded(mode: Mode) -> EmbeddingResult:
        return model.embed(
            [query], mode=mode, instruction=instruction,
            max_new_tokens=policy.max_new_tokens if mode != "disc" else None,
        )  # fmt: skip

    shown = {name: wanted[name] for name in _SHOWN if name in wanted}
    looked_at = {name: value for name, value in wanted.items() if name not in (*_SHOWN, "exact")}
    if policy.kind == "fused":
        result = embedded("both")
        disc, gen = (index.scores(result.vectors(m)[0], m, **looked_at) for m in ("disc", "gen"))
        hits = index.best(fused(disc, gen, policy.weight), top, **shown)
        return Answer(hits, result.records[0], "both")
    mode: Mode = "gen" if policy.kind == "gen" else "disc"
    result = embedded(mode)
    if policy.kind == "routed":
        scores = index.scores(result.vectors("disc")[0], "disc", **looked_at)
        known = np.array(list(scores.values()))
        if margin(known, standardised=policy.standardised) > policy.threshold:
            return Answer(index.best(scores, top, **shown), result.records[0], "disc")
        mode, result = "gen", embedded("gen")
    hits = index.search(result.vectors(mode)[0], mode, top, **wanted)
    return Answer(hits, result.records[0], mode)


def find_like(index: Index, name: str, policy: SearchPolicy, top: int, **wanted: Any) -> Answer:
    """More like an indexed file, by its stored vectors; see `Index.like`.

    Args:
        index: the index.
        name: the file's path in the folder.
        policy: `disc` or `gen`.
        top: number of hits at most.
        wanted: see `find`.

    Raises:
        InvalidOption: the index has no such file, or the policy needs a query that is embedded.
    """
    if policy.kind not in ("disc", "gen"):
        raise InvalidOption(
            f"the policy {policy.kind} needs a query that is embedded",
            fix="choose disc or gen, or pass the file as a query",
        )
    mode: Mode = "gen" if policy.kind == "gen" else "disc"
    return Answer(index.like(name, mode, top, **wanted), Record("ok"), mode)
