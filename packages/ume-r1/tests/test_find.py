"""Retrieval policies on an index of both vectors, with and without its small copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core.errors import SignatureMismatch
from ume_core.retrieval import SearchPolicy, margin
from ume_core.testing import FakeEmbedder
from ume_r1.index import Answer, Index, build_index, find, snapshot

Create = Callable[..., Index]
Run = Callable[..., tuple[int, str, str]]
QUERY = "thing number 3"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of nine texts."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.txt").write_text(f"thing number {number}")
    return folder


@pytest.fixture(params=["copy", "table"])
def index(
    request: pytest.FixtureRequest, texts: Path, create: Create, model: FakeEmbedder,
    monkeypatch: pytest.MonkeyPatch,
) -> Index:  # fmt: skip
    made = create(texts, "both")
    build_index(made, texts, model)
    if request.param == "table":
        monkeypatch.setattr(snapshot, "read", lambda *a: None)
    return Index.open(made.directory)


def cosines(texts: Path, model: FakeEmbedder) -> dict[str, dict[str, float]]:
    """What brute force gives, by mode and file."""
    names = sorted(p.name for p in texts.iterdir())
    documents = model.embed([(texts / n).read_text() for n in names], mode="both")
    query = model.embed([QUERY], mode="both")
    return {
        mode: dict(
            zip(names, (documents.vectors(mode) @ query.vectors(mode)[0]).tolist(), strict=True)
        )
        for mode in ("disc", "gen")
    }


def ranked(answer: Answer) -> list[tuple[str, float]]:
    return [(hit.name, hit.score) for hit in answer.hits]


def test_fused_scores_are_the_weighted_cosines(
    index: Index, texts: Path, model: FakeEmbedder
) -> None:
    known = cosines(texts, model)
    found = find(index, model, QUERY, SearchPolicy("fused", weight=0.3), 9)
    wanted = {n: 0.7 * known["disc"][n] + 0.3 * known["gen"][n] for n in known["disc"]}
    assert found.mode == "both"
    assert [n for n, _ in ranked(found)] == sorted(wanted, key=lambda n: -wanted[n])
    for name, score in ranked(found):
        assert score == pytest.approx(wanted[name], abs=1e-5)


def test_a_routed_query_thinks_only_up_to_the_threshold(
    index: Index, texts: Path, model: FakeEmbedder
) -> None:
    known = cosines(texts, model)
    gap = margin(np.array(list(known["disc"].values())), standardised=False)
    for threshold, mode in ((gap - 1e-3, "disc"), (gap + 1e-3, "gen")):
        found = find(index, model, QUERY, SearchPolicy("routed", threshold=threshold), 9)
        assert found.mode == mode
        best = max(known[mode], key=lambda n: known[mode][n])
        assert ranked(found)[0] == (best, pytest.approx(known[mode][best], abs=1e-5))


def test_a_policy_looks_at_the_asked_files_only(index: Index, model: FakeEmbedder) -> None:
    for policy in (SearchPolicy("fused"), SearchPolicy("routed", threshold=-1)):
        assert find(index, model, QUERY, policy, 9, kind="image").hits == []
        assert len(find(index, model, QUERY, policy, 4, kind="text").hits) == 4


def test_an_index_of_one_vector_refuses_both(
    texts: Path, create: Create, model: FakeEmbedder
) -> None:
    index = create(texts, "disc")
    build_index(index, texts, model)
    with pytest.raises(SignatureMismatch, match=r"holds disc vectors.*--mode both"):
        find(index, model, QUERY, SearchPolicy("fused"), 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "routed"], "--policy routed needs --threshold"),
        (["--policy", "fused", "--mode", "gen"], "exclude each other"),
        (["--policy", "fused", "--weight", "2"], "the weight is 2.0"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    index: Index, run: Run, arguments: list[str], said: str
) -> None:
    status, _, err = run("search", index.directory, "a", *arguments)
    assert status == 2 and said in err


def test_the_command_takes_a_policy(index: Index, run: Run, model: Any) -> None:
    del model
    status, out, _ = run("search", index.directory, QUERY, "--policy", "fused", "--top", 3)
    assert status == 0 and "3.txt" in out.splitlines()[2]
