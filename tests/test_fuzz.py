"""A few hundred hostile inputs on every run; `python -m tools.fuzz` tries thousands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tools.fuzz.run as fuzz
from tools.fuzz.judge import FAMILIES, Inputs, judge
from tools.fuzz.report import markdown, summary
from ume_core import MediaError
from ume_core.testing import FakeEmbedder

COUNTS = {"pictures": 300, "clips": 72, "texts": 80, "messages": 300}


def test_hostile_inputs_give_vectors_or_our_errors_in_bounded_time_and_memory() -> None:
    verdicts = list(fuzz.run(COUNTS, seed=1))
    assert [v for v in verdicts if v.finding] == []
    assert len(verdicts) == sum(COUNTS.values())
    for family in FAMILIES:  # inputs that are all refused, or all taken, would show little
        outcomes = {v.outcome for v in verdicts if v.family == family}
        assert {"ok", "refused"} <= outcomes, family


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(0)


def test_an_input_is_known_by_its_seed_and_number(inputs: Inputs) -> None:
    again = Inputs(0)
    for family in ("pictures", "clips", "texts"):
        assert repr(inputs.make(family, 5)) == repr(again.make(family, 5))
        assert repr(inputs.make(family, 5)) != repr(Inputs(1).make(family, 5))


class Broken(FakeEmbedder):
    """An embedder that does what none may do."""

    def __init__(self, raised: Exception | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self._raised, self._scale = raised, scale

    def embed(self, items: Any, **options: Any) -> Any:
        if self._raised is not None:
            raise self._raised
        result = super().embed(["x" for _ in items], **options)
        assert result.disc is not None
        result.disc[:] *= self._scale
        return result


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        (Broken(KeyError("text")), "KeyError"),
        (Broken(MediaError("is damaged", fix="replace it")), ""),
        (Broken(scale=2.0), "a vector of length 2"),
        (Broken(scale=float("nan")), "a vector of length nan"),
        (Broken(), ""),
    ],
)
def test_what_may_not_happen_is_found(model: Any, finding: str, inputs: Inputs) -> None:
    verdict = judge(model, inputs, "texts", 3)
    assert finding in verdict.finding and bool(finding) == bool(verdict.finding)


def test_an_error_that_wraps_anothers_is_found(inputs: Inputs) -> None:
    class Careless(FakeEmbedder):
        def _read(self, item: Any) -> Any:
            return np.zeros(3)[item]

    assert "IndexError" in judge(Careless(), inputs, "texts", 3).finding


def test_a_process_that_dies_or_hangs_costs_its_input_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "_HANGS", 0.01)
    verdicts = list(fuzz.run({"texts": 2}, seed=0))
    assert [(v.number, v.outcome) for v in verdicts] == [(0, "crash"), (1, "crash")]
    about = {"command": "x", "date": "", "versions": "", "seconds": 1, "seed": 0}
    assert "**Findings: 2.**" in markdown(summary(verdicts, about))
