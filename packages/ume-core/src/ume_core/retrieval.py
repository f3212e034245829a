"""A retrieval policy over any embedder: disc, gen, both fused, or gen where disc is unsure.

`disc`, `gen` and `fused` give one vector per item and fit every index. A fused vector is
[sqrt(1 - w) disc, sqrt(w) gen]: its dot product is (1 - w) disc cosine + w gen cosine. `routed`
decides per query, so it needs both indexes and a search of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption, SignatureMismatch
from ume_core.items import ItemLike

Kind: TypeAlias = Literal["disc", "gen", "fused", "routed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SearchPolicy:
    """How queries and documents are embedded and compared.

    Attributes:
        kind: `disc`, `gen`, `fused` or `routed`.
        weight: of gen in `fused`, 0 to 1; choose it on data that is not scored.
        threshold: margin of disc scores up to which a query thinks in `routed`; see
            `PolicyIndex.threshold_for`.
        standardised: divide margins by the deviation of a query's scores.
        max_new_tokens: budget of an answer; None takes the embedder's default.
    """

    kind: Kind = "disc"
    weight: float = 0.5
    threshold: float = float("-inf")
    standardised: bool = False
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidOption(
                f"unknown policy {self.kind!r}", fix=f"use one of: {', '.join(KINDS)}"
            )
        if not 0 <= self.weight <= 1:
            raise InvalidOption(f"the weight is {self.weight}", fix="pass a number from 0 to 1")
        if np.isnan(self.threshold):
            raise InvalidOption("the threshold is NaN", fix="take it from threshold_for()")


@dataclass(frozen=True)
class Found:
    """Search results.

    Attributes:
        numbers: document numbers, best first, shape (queries, k).
        scores: their scores, likewise; of the space that the query was answered in.
        thought: whether the query was answered with gen, shape (queries,).
    """

    numbers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    thought: npt.NDArray[np.bool_]


class PolicyEmbedder:
    """An embedder under a policy.

    Args:
        embedder: any embedder; it needs gen for all policies but `disc`.
        policy: what to do with it.
    """

    def __init__(self, embedder: Embedder, policy: SearchPolicy) -> None:
        if policy.kind != "disc" and "gen" not in embedder.modes:
            raise InvalidOption(
                f"the policy {policy.kind} needs gen, which the {embedder.name} engine lacks",
                fix='load the model with engine="torch", or use the policy disc',
            )
        self.embedder, self.policy = embedder, policy

    @property
    def signature(self) -> str:
        """What decides the vectors: two indexes are comparable only if theirs agree."""
        signature = self.embedder.signature("both" if self.policy.kind in ("fused", "routed") else
                                            self.policy.kind)  # fmt: skip
        weight = f"/{self.policy.weight}" if self.policy.kind == "fused" else ""
        return f"{self.policy.kind}{weight}/{signature.digest}"

    def vectors(self, items: Sequence[ItemLike]) -> Vectors:
        """One unit vector per item, shape (items, dimensions); twice as long in `fused`.

        Raises:
            InvalidOption: `routed` has no single vector.
        """
        kind = self.policy.kind
        if kind == "routed":
            raise InvalidOption(
                "the policy routed has no single vector per item", fix="use index() and search()"
            )
        if kind != "fused":
            return self.vectors_of(items, kind)
        result = self.embedder.embed(items, mode="both", max_new_tokens=self.policy.max_new_tokens)
        weight = self.policy.weight
        parts = [
            np.sqrt(1 - weight) * result.vectors("disc"),
            np.sqrt(weight) * result.vectors("gen"),
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def index(self, items: Sequence[ItemLike]) -> PolicyIndex:
        """Documents ready to be searched; `routed` embeds them in both modes."""
        if self.policy.kind != "routed":
            return PolicyIndex(self, self.vectors(items), None)
        result = self.embedder.embed(items, mode="both", max_new_tokens=self.policy.max_new_tokens)
        return PolicyIndex(self, result.vectors("disc"), result.vectors("gen"))

    def vectors_of(self, items: Sequence[ItemLike], mode: Literal["disc", "gen"]) -> Vectors:
        """Vectors of one mode, float32 (items, dimensions)."""
        budget = self.policy.max_new_tokens if mode == "gen" else None
        return self.embedder.embed(items, mode=mode, max_new_tokens=budget).vectors(mode)


class PolicyIndex:
    """Documents under a policy; made by `PolicyEmbedder.index`.

    Args:
        owner: embeds queries.
        first: vectors of the policy, disc ones in `routed`.
        second: gen vectors in `routed`, else None.
    """

    def __init__(self, owner: PolicyEmbedder, first: Vectors, second: Vectors | None) -> None:
        self._owner, self._first, self._second = owner, first, second
        self.signature = owner.signature

    def __len__(self) -> int:
        return len(self._first)

    def threshold_for(self, queries: Sequence[ItemLike], share: float) -> float:
        """The threshold that sends a share of such queries to gen. No labels are needed.

        Args:
            queries: typical queries.
            share: 0 to 1.
        """
        scores = np.inner(self._owner.vectors_of(queries, "disc"), self._first)
        policy = self._owner.policy
        known = margins(list(scores), standardised=policy.standardised)
        return threshold(known, share)

    def search(
        self, queries: Sequence[ItemLike], k: int = 10, *, owner: PolicyEmbedder | None = None
    ) -> Found:
        """The k best documents of every query.

        Args:
            queries: what is looked for.
            k: at most the number of documents.
            owner: embeds queries instead, say under another threshold.

        Raises:
            SignatureMismatch: `owner`'s vectors are not comparable with the documents'.
            InvalidOption: k is below 1.
        """
        owner = owner or self._owner
        if owner.signature != self.signature:
            raise SignatureMismatch(
                f"the index is {self.signature}, the queries are {owner.signature}",
                fix="embed both under one policy",
            )
        if k < 1:
            raise InvalidOption(f"k is {k}", fix="ask for at least one document")
        if self._second is None:
            scores = np.inner(owner.vectors(queries), self._first)
            return _best(scores, np.full(len(queries), owner.policy.kind == "gen"), k)
        scores = np.inner(owner.vectors_of(queries, "disc"), self._first)
        known = margins(list(scores), standardised=owner.policy.standardised)
        thought = known <= owner.policy.threshold
        chosen = [query for query, think in zip(queries, thought, strict=True) if think]
        if chosen:
            scores[thought] = np.inner(owner.vectors_of(chosen, "gen"), self._second)
        return _best(scores, thought, k)


def fused(disc: Mapping[str, float], gen: Mapping[str, float], weight: float) -> dict[str, float]:
    """(1 - weight) disc + weight gen of every document, by name.

    Args:
        disc: cosines by document.
        gen: likewise, of the same documents.
        weight: of gen.
    """
    return {name: (1 - weight) * score + weight * gen[name] for name, score in disc.items()}


def margin(scores: Scores, *, standardised: bool) -> float:
    """Gap between the best two scores; infinite where there is one candidate.

    Args:
        scores: of one query.
        standardised: divide by the deviation of all its scores.
    """
    if len(scores) < 2:
        return float("inf")
    second, first = np.partition(scores, -2)[-2:]
    gap = float(first - second)
    spread = float(scores.std())
    return gap / spread if standardised and spread > 0 else gap


def margins(scores: Sequence[Scores], *, standardised: bool) -> Floats:
    """Of every query."""
    return np.array([margin(s, standardised=standardised) for s in scores])


def threshold(known: Floats, share: float) -> float:
    """The margin up to which `share` of queries are sent to gen.

    Args:
        known: margins of unlabelled queries.
        share: 0 to 1.
    """
    if share <= 0:
        return float("-inf")
    return float("inf") if share >= 1 else float(np.quantile(known, share))


def _best(scores: Vectors, thought: npt.NDArray[np.bool_], k: int) -> Found:
    numbers = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(numbers, np.take_along_axis(scores, numbers, axis=1), thought)
