"""Samples, fusion, routing and policies against brute force and by their promises."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranx

import ume_core
from ume_core.errors import InvalidOption, SignatureMismatch
from ume_core.retrieval import PolicyEmbedder, SearchPolicy
from ume_core.testing import FakeEmbedder
from ume_eval.data import Annotations
from ume_eval.metrics.bootstrap import difference, interval
from ume_eval.scaling import confidence_pool, fusion, mean_pool, medoid, pass_at_k, router
from ume_r1.cli import main


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, (9, 6))
    for k in range(1, 7):
        drawn = [right[:, list(s)].any(axis=1) for s in itertools.combinations(range(6), k)]
        np.testing.assert_allclose(pass_at_k(right.sum(axis=1), 6, k), np.mean(drawn, axis=0))
    with pytest.raises(InvalidOption, match="k is 7"):
        pass_at_k(right.sum(axis=1), 6, 7)


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_pools() -> None:
    samples = _unit(np.random.default_rng(1).standard_normal((3, 5, 4)))
    np.testing.assert_allclose(mean_pool(samples), _unit(samples.sum(axis=1)))
    for item, chosen in zip(samples, medoid(samples), strict=True):
        means = [np.mean([a @ b for b in item]) for a in item]
        np.testing.assert_array_equal(chosen, item[int(np.argmax(means))])
    even = confidence_pool(samples, np.zeros((3, 5)))
    np.testing.assert_allclose(even, mean_pool(samples))
    sure = confidence_pool(samples, np.array([[0, 0, 99, 0, 0]] * 3, dtype=float))
    np.testing.assert_allclose(sure, samples[:, 2], atol=1e-12)


def test_reciprocal_rank_fusion_equals_ranx() -> None:
    rng = np.random.default_rng(2)
    disc, gen = rng.permutation(20) / 20, rng.permutation(20) / 20
    runs = [ranx.Run({"q": {str(n): float(v) for n, v in enumerate(s)}}) for s in (disc, gen)]
    nothing: Any = None
    oracle: Any = ranx.fuse(runs=runs, method="rrf", norm=nothing).to_dict()["q"]
    ours = fusion.reciprocal_ranks(disc, gen)
    np.testing.assert_allclose(ours, [oracle[str(n)] for n in range(20)])


def test_fusions_ends_are_its_branches() -> None:
    rng = np.random.default_rng(3)
    disc, gen = rng.standard_normal(8), rng.standard_normal(8)
    for standardised in (False, True):
        for weight, branch in ((0.0, disc), (1.0, gen)):
            fused = fusion.fuse(disc, gen, weight, standardised=standardised)
            np.testing.assert_array_equal(np.argsort(-fused), np.argsort(-branch))
    assert np.isfinite(fusion.z_scores(np.ones(4))).all()


def test_a_fusion_weight_is_never_chosen_on_the_queries_it_is_scored_on() -> None:
    """On noise, choosing on the scored queries gains; cross-fitted it must not."""
    rng = np.random.default_rng(4)
    gains, cheats = [], []
    for seed in range(20):
        disc = [rng.standard_normal(10) for _ in range(60)]
        gen = [rng.standard_normal(10) for _ in range(60)]

        def quality(scores: Any) -> Any:
            return np.array([float(s.argmax() == 0) for s in scores])

        found, _ = fusion.cross_fitted(disc, gen, quality, standardised=True, seed=seed)
        gains.append(found.mean())
        cheats.append(
            max(
                quality(
                    [
                        fusion.fuse(d, g, w, standardised=True)
                        for d, g in zip(disc, gen, strict=True)
                    ]
                ).mean()
                for w in fusion.WEIGHTS
            )
        )
    assert np.mean(gains) == pytest.approx(0.1, abs=0.02)
    assert np.mean(cheats) > np.mean(gains) + 0.02


def test_the_router_sends_the_share_it_was_asked_for_to_gen() -> None:
    rng = np.random.default_rng(5)
    known = router.margins([rng.standard_normal(12) for _ in range(200)], standardised=True)
    for share in router.SHARES:
        assert router.routed(known, share).mean() == pytest.approx(share, abs=0.01)
    sure = router.routed(known, 0.3)
    assert known[sure].max() < known[~sure].min()
    assert router.margin(np.array([0.5]), standardised=False) == float("inf")
    assert router.margin(np.array([0.1, 0.9, 0.6]), standardised=False) == pytest.approx(0.3)


def test_the_routers_ends_and_bounds() -> None:
    rng = np.random.default_rng(6)
    disc, gen = (rng.integers(0, 2, 100).astype(float) for _ in range(2))
    np.testing.assert_array_equal(router.random_quality(disc, gen, 0), disc)
    np.testing.assert_array_equal(router.random_quality(disc, gen, 1), gen)
    best = np.where(router.oracle_mask(disc, gen, 1), gen, disc)
    np.testing.assert_array_equal(best, np.maximum(disc, gen))
    for share in router.SHARES:
        mask = router.oracle_mask(disc, gen, share)
        assert mask.mean() <= share
        chosen = np.where(mask, gen, disc).mean()
        assert chosen >= router.random_quality(disc, gen, share).mean() - 1e-12


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        low, high = interval((rng.random(120) < 0.4).astype(float), resamples=300, seed=trial)
        covered += low <= 0.4 <= high
    assert 0.89 <= covered / 200 <= 0.99
    mean, low, high = difference(np.ones(50), np.zeros(50))
    assert (mean, low, high) == (1.0, 1.0, 1.0)


def test_a_study_of_the_miniature(demo: Annotations, tmp_path: Path) -> None:
    command = ["eval", "scaling", "--demo", "--tasks", "QVHighlight", "ViDoSeek-doc"]
    output = ["--samples", "3", "--variants", "none", "shuffled", "--output", str(tmp_path)]
    assert main([*command, *output]) == 0
    content = json.loads((tmp_path / "scaling.json").read_text("utf-8"))
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "studies").iterdir()}
    assert main([*command, *output]) == 0  # a finished task is not studied again
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "studies").iterdir()} == kept
    assert [s["task"] for s in content["studies"]] == ["QVHighlight", "ViDoSeek-doc"]
    for found in content["studies"]:
        points = found["points"]
        assert {
            "disc",
            "gen",
            "gen, none",
            "gen, thinking of another item",
            "oracle of disc and gen",
            "fusion, raw",
        } <= set(points)
        assert points["oracle of disc and gen"]["quality"] >= points["gen"]["quality"]
        assert points["gen"]["query_generated"] > 0 == points["disc"]["query_generated"]
        both = points["disc"]["index_tokens"] + points["gen"]["index_tokens"]
        assert points["fusion, raw"]["index_tokens"] == pytest.approx(both)
        curve = found["router"]["margin, raw"]
        assert curve[0]["quality"] == pytest.approx(points["disc"]["quality"])
        assert curve[-1]["quality"] == pytest.approx(points["gen"]["quality"])
        assert curve[0]["query_tokens"] < curve[-1]["query_tokens"]
        passes = [p["quality"] for p in found["samples"]["pass_at_k"]]
        assert passes == sorted(passes)
        assert set(found["samples"]["pooled"]) == {"mean", "medoid", "confidence"}
    page = (tmp_path / "scaling.html").read_text("utf-8")
    assert page.count("<svg") == 4
    assert demo.data.is_dir()


QUERIES = ["a red apple", "a dog", "three bicycles", "the sun"]
DOCUMENTS = [f"{what} on white" for what in ("an apple", "a dog", "bicycles", "the sun", "a key")]


@pytest.fixture(scope="module")
def nano() -> Any:
    return ume_core.load("ume-nano")


def test_policies_of_one_vector_fit_any_index(nano: Any) -> None:
    single = {k: nano.embed(QUERIES, mode=k, max_new_tokens=64).vectors(k) for k in ("disc", "gen")}
    for kind in ("disc", "gen"):
        policy = PolicyEmbedder(nano, SearchPolicy(kind, max_new_tokens=64))
        np.testing.assert_allclose(policy.vectors(QUERIES), single[kind], atol=1e-5)
    fused = PolicyEmbedder(nano, SearchPolicy("fused", weight=0.3, max_new_tokens=64))
    vectors = fused.vectors(QUERIES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    wanted = 0.7 * single["disc"] @ single["disc"].T + 0.3 * single["gen"] @ single["gen"].T
    np.testing.assert_allclose(vectors @ vectors.T, wanted, atol=1e-5)


def test_a_routed_search_thinks_only_where_it_is_unsure(nano: Any) -> None:
    routed = PolicyEmbedder(nano, SearchPolicy("routed", max_new_tokens=64))
    index = routed.index(DOCUMENTS)
    disc = PolicyEmbedder(nano, SearchPolicy("disc")).index(DOCUMENTS).search(QUERIES, 5)
    gen_policy = PolicyEmbedder(nano, SearchPolicy("gen", max_new_tokens=64))
    gen = gen_policy.index(DOCUMENTS).search(QUERIES, 5)
    never = index.search(QUERIES, 5)
    assert not never.thought.any()
    np.testing.assert_array_equal(never.numbers, disc.numbers)
    half = SearchPolicy("routed", threshold=index.threshold_for(QUERIES, 0.5), max_new_tokens=64)
    found = index.search(QUERIES, 5, owner=PolicyEmbedder(nano, half))
    assert found.thought.sum() == 2
    for row in range(4):
        expected = gen if found.thought[row] else disc
        np.testing.assert_array_equal(found.numbers[row], expected.numbers[row])
        np.testing.assert_allclose(found.scores[row], expected.scores[row], atol=1e-5)


def test_policies_refuse_what_cannot_be_meant(nano: Any) -> None:
    index = PolicyEmbedder(nano, SearchPolicy("disc")).index(DOCUMENTS)
    other = PolicyEmbedder(nano, SearchPolicy("fused"))
    with pytest.raises(SignatureMismatch, match="the index is disc/"):
        index.search(QUERIES, owner=other)
    with pytest.raises(InvalidOption, match="no single vector"):
        PolicyEmbedder(nano, SearchPolicy("routed")).vectors(QUERIES)
    for bad in ({"kind": "both"}, {"weight": 1.5}, {"threshold": float("nan")}):
        with pytest.raises(InvalidOption):
            SearchPolicy(**bad)  # pyright: ignore[reportArgumentType]

    class DiscOnly(FakeEmbedder):
        @property
        def modes(self) -> Any:
            return frozenset({"disc"})

    with pytest.raises(InvalidOption, match="needs gen"):
        PolicyEmbedder(DiscOnly(), SearchPolicy("routed"))
