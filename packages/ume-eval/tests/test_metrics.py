"""Metrics against pytrec_eval, ranx and brute force; ties and upstream's grading error."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import ranx

from ume_core.errors import InvalidOption
from ume_eval.data import Entry, Query, TaskData
from ume_eval.metrics import evaluate, means, rank, relabelled
from ume_eval.tasks import tasks_of

PUBLISHED = json.loads((Path(__file__).parent / "published_scores.json").read_text("utf-8"))
TASKS = {t.name: t for t in tasks_of()}
NAMES = {"hit@1": "success_1", "ndcg_linear@5": "ndcg_cut_5", "ndcg_linear@10": "ndcg_cut_10"}


def _cases(count: int = 60) -> list[tuple[np.ndarray, dict[int, int]]]:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(count):
        size = int(rng.integers(3, 40))
        scores = rng.permutation(size).astype(np.float32) / size  # all distinct
        labels = rng.choice(size, int(rng.integers(1, min(size, 12))), replace=False)
        cases.append((scores, {int(i): int(rng.integers(1, 4)) for i in labels}))
    return cases


def test_distinct_scores_equal_pytrec_eval() -> None:
    for scores, relevant in _cases():
        run = {"q": {str(i): float(s) for i, s in enumerate(scores)}}
        qrels = {"q": {str(i): grade for i, grade in relevant.items()}}
        measures = {"ndcg_cut", "success"}
        oracle = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)["q"]
        ours = rank(scores, None, relevant).values
        for name, theirs in NAMES.items():
            assert ours[name] == pytest.approx(oracle[theirs], abs=1e-9)


def test_distinct_scores_equal_ranx_in_linear_and_exponential_ndcg() -> None:
    for scores, relevant in _cases(12):
        run = ranx.Run({"q": {str(i): float(s) for i, s in enumerate(scores)}})
        qrels = ranx.Qrels({"q": {str(i): grade for i, grade in relevant.items()}})
        ours = rank(scores, None, relevant).values
        oracle: Any = ranx.evaluate(qrels, run, ["ndcg@5", "ndcg_burges@5", "hit_rate@1"])
        assert ours["ndcg_linear@5"] == pytest.approx(oracle["ndcg@5"], abs=1e-9)
        assert ours["ndcg_exponential@5"] == pytest.approx(oracle["ndcg_burges@5"], abs=1e-9)
        assert ours["hit@1"] == oracle["hit_rate@1"]


@pytest.mark.parametrize("name", ["hit@1", "hit@5", "ndcg_linear@5", "ndcg_exponential@5"])
def test_ties_are_the_mean_and_the_minimum_over_all_orders(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores = rng.integers(0, 3, 7).astype(np.float32)
        relevant = {int(i): int(rng.integers(1, 4)) for i in rng.choice(7, 3, replace=False)}
        orders = []
        for order in itertools.permutations(range(7)):
            if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
                distinct = np.empty(7)
                distinct[list(order)] = np.arange(7, 0, -1)
                orders.append(rank(distinct, None, relevant).values[name])
        expected = rank(scores, None, relevant, ties="expected").values[name]
        assert expected == pytest.approx(np.mean(orders), abs=1e-9)
        worst = rank(scores, None, relevant, ties="pessimistic").values[name]
        assert worst == pytest.approx(min(orders), abs=1e-9)


def test_a_constant_model_has_chance_here_and_a_perfect_score_upstream() -> None:
    """MMEB-V2 lists the right candidate first, and argsort keeps the order of equal scores."""
    entries = [Entry(n, str(n)) for n in range(1000)]
    queries = [Query(Entry(f"q{n}", "q"), {0: 1}, tuple(range(1000))) for n in range(3)]
    data = TaskData(TASKS["GQA"], queries, entries)
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(193).astype(np.float32)
    vector /= np.linalg.norm(vector)
    same = np.tile(vector, (3, 1)), np.tile(vector, (1000, 1))
    assert evaluate(data, *same, ties="listed").metrics["hit@1"] == 1.0
    honest = evaluate(data, *same)
    assert honest.metrics["hit@1"] == pytest.approx(1 / 1000)
    assert honest.tied == 3
    assert evaluate(data, *same, ties="pessimistic").metrics["hit@1"] == 0.0
    # Upstream's own order of equal scores, which `listed` stands for.
    assert np.argsort(-np.zeros(1000, dtype=np.float32))[0] == 0


def test_a_constant_model_is_tied_in_a_global_task_too() -> None:
    entries = [Entry(n, str(n)) for n in range(451)]
    queries = [Query(Entry(f"q{n}", "q"), {n: 1}) for n in range(300)]
    data = TaskData(TASKS["ViDoRe_arxivqa"], queries, entries)
    vector = np.random.default_rng(3).standard_normal(193).astype(np.float32)
    vector /= np.linalg.norm(vector)
    found = evaluate(data, np.tile(vector, (300, 1)), np.tile(vector, (451, 1)))
    assert found.tied == 300
    assert found.metrics["hit@1"] == pytest.approx(1 / 451)


def test_repeated_candidates_take_places_as_upstream() -> None:
    scores = np.array([0.5, 0.9, 0.9], dtype=np.float32)
    assert rank(scores, (0, 1, 1), {0: 1}, cutoffs=(2, 3)).values["hit@2"] == 0.0
    assert rank(scores, (0, 1, 1), {0: 1}, cutoffs=(2, 3)).values["hit@3"] == 1.0


def test_nan_is_refused() -> None:
    with pytest.raises(InvalidOption, match="NaN"):
        rank(np.array([0.1, np.nan]), None, {0: 1})
    data = TaskData(
        TASKS["GQA"], [Query(Entry("q", "q"), {0: 1}, (0, 1))], [Entry(0, ""), Entry(1, "")]
    )
    with pytest.raises(InvalidOption, match="NaN"):
        evaluate(data, np.full((1, 2), np.nan, np.float32), np.eye(2, dtype=np.float32))


def test_failed_items_are_misses_not_errors() -> None:
    entries = [Entry(0, "a"), Entry(1, "b")]
    queries = [Query(Entry(f"q{n}", "q"), {0: 1}, (0, 1)) for n in range(2)]
    data = TaskData(TASKS["GQA"], queries, entries)
    vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
    asked = np.array([[1, 0], [np.nan, np.nan]], dtype=np.float32)
    found = evaluate(data, asked, vectors, failed_queries=frozenset({1}))
    assert found.per_query.tolist() == [1.0, 0.0]
    asked[1] = [1, 0]
    vectors[0] = np.nan
    found = evaluate(data, asked, vectors, failed_candidates=frozenset({0}))
    assert found.metrics["hit@1"] == 0.0


def test_an_empty_relevance_is_a_miss() -> None:
    found = rank(np.array([0.2, 0.1]), None, {})
    assert found.values["hit@1"] == found.values["ndcg_linear@5"] == 0.0
    assert not found.tied


def _upstream_ndcg(scores: np.ndarray, labels: list, grades: list[int], k: int = 5) -> float:
    """Upstream's steps in its own words: labels through a set, grades in the list's order."""
    attached = dict(zip(list(set(labels)), grades, strict=True))
    order = np.argsort(-scores)[:k]
    gains = [attached.get(int(i), 0) for i in order]
    best = sorted(attached.values(), reverse=True)[:k]
    dcg = [sum(g / np.log2(n + 2) for n, g in enumerate(row)) for row in (gains, best)]
    return float(dcg[0] / dcg[1])


def test_upstreams_value_on_graded_sets_with_whole_number_ids() -> None:
    rng = np.random.default_rng(5)
    differs = False
    for _ in range(30):
        size = 40
        vectors = rng.standard_normal((size, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = rng.permutation(size)  # candidate number -> id
        labels = rng.choice(size, 6, replace=False).tolist()
        grades = rng.integers(1, 4, 6).tolist()
        by_id = {int(i): n for n, i in enumerate(ids)}
        relevant = {by_id[label]: grade for label, grade in zip(labels, grades, strict=True)}
        entries = [Entry(int(i), str(i)) for i in ids]
        data = TaskData(
            TASKS["ViDoRe_esg_reports_human_labeled_v2"],
            [Query(Entry("q", "q"), relevant)],
            entries,
        )
        query = vectors[:1] + 0.5 * vectors[1:2]
        query /= np.linalg.norm(query)
        found = evaluate(data, query, vectors)
        scores = np.empty(size)
        scores[ids] = vectors @ query[0]
        oracle = _upstream_ndcg(scores, labels, grades)
        assert found.metrics["ndcg_linear@5_upstream"] == pytest.approx(oracle, abs=1e-6)
        assert found.upstream_exact
        differs |= abs(found.metrics["ndcg_linear@5"] - oracle) > 0.01
    assert differs


def test_upstreams_value_for_text_ids_is_the_mean_over_orders() -> None:
    relevant, keys = {0: 3, 2: 1, 4: 2}, ["a", "b", "c", "d", "e"]
    scores = np.array([0.3, 0.9, 0.8, 0.2, 0.1])
    values = []
    for order in itertools.permutations(relevant):
        grades = dict(zip(order, relevant.values(), strict=True))
        values.append(rank(scores, None, grades).values["ndcg_linear@5"])
    data = TaskData(
        TASKS["ViDoSeek-doc"], [Query(Entry("q", "q"), relevant)], [Entry(k, k) for k in keys]
    )
    from ume_eval.metrics import evaluate_scores

    found = evaluate_scores(data, iter([scores]))
    assert found.metrics["ndcg_linear@5_upstream"] == pytest.approx(np.mean(values))
    assert found.upstream_exact is False
    assert relabelled({0: 2, 1: 2}, ["x", "y"]) == ({0: 2.0, 1: 2.0}, True)


@pytest.mark.parametrize(
    ("model", "image", "video", "visdoc", "whole"),
    [
        ("v2.0.0/VLM2Vec-V2.0-Qwen2VL-2B", 64.85, 34.58, 65.36, 58.02),
        ("v2.0.1/VLM2Vec-V2.0-Qwen2VL-2B", 64.92, 34.67, 64.76, 57.89),
        ("v2.0.0/gme-Qwen2-VL-2B-Instruct", None, None, None, 54.08),
        ("v2.0.0/gme-Qwen2-VL-7B-Instruct", None, None, None, 57.83),
        ("v2.0.0/colpali-v1.3", None, None, None, 44.44),
        ("v2.0.0/VLM2Vec-V1-Qwen2VL-7B", None, None, None, 52.29),
    ],
)
def test_means_of_published_files(
    model: str, image: float | None, video: float | None, visdoc: float | None, whole: float
) -> None:
    found = means(PUBLISHED[model], tasks_of("v2.0"))
    expected = {"image": image, "video": video, "visdoc": visdoc, "All": whole}
    for group, value in expected.items():
        assert found[group].complete
        if value is not None:
            assert round(found[group].value or 0, 2) == value


def test_meta_task_means_of_a_published_file() -> None:
    found = means(PUBLISHED["v2.0.0/VLM2Vec-V2.0-Qwen2VL-2B"], tasks_of("v2.0"))
    groups = "I-CLS I-QA I-RET I-VG V-CLS V-QA V-RET V-MR VDRv1 VDRv2 VisRAG OOD".split()
    values = [62.9, 56.3, 69.5, 77.3, 39.3, 34.3, 28.8, 36.8, 75.5, 44.9, 79.4, 39.4]
    assert [round(found[g].value or 0, 1) for g in groups] == values


def test_a_partial_mean_says_how_much_it_covers() -> None:
    found = means({"GQA": 0.5, "VizWiz": 0.7}, tasks_of())
    assert str(found["All"]) == "60.0 (2/78)"
    assert str(found["I-QA"]) == "60.0 (2/10)"
    assert str(found["video"]) == "- (0/18)"
    assert not found["image"].complete
    with pytest.raises(InvalidOption, match="MomentSeeker_1k8"):
        means({"MomentSeeker_1k8": 0.4}, tasks_of())
