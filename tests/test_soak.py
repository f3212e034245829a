"""A small run of `tools.soak`, and that it would notice."""

from __future__ import annotations

from typing import Any

import pytest

import ume_r1 as ume
from tools.soak import GROWTH_BYTES, Report, soak
from ume_core import Embedder, EmbeddingResult
from ume_core.testing import FakeEmbedder


@pytest.fixture(scope="module")
def models() -> tuple[Embedder, Embedder]:
    return ume.load("ume-nano", device="cpu"), ume.load("ume-nano", device="cpu")


def test_threads_failures_and_interrupts_change_no_answer(
    models: tuple[Embedder, Embedder],
) -> None:
    report = soak(*models, threads=16, count=160)
    assert report.calls == 160 and report.wrong == []
    assert report.difference <= 1e-5
    assert report.growth < GROWTH_BYTES


class Mixing(FakeEmbedder):
    """An engine whose threads get in each other's way."""

    def embed(self, items: Any, **options: Any) -> EmbeddingResult:
        result = super().embed(items, **options)
        if result.disc is not None:
            result.disc[0] += 1e-3
        return result


def test_a_wrong_vector_and_a_leak_are_noticed() -> None:
    report = soak(Mixing(), FakeEmbedder(), threads=4, count=60)
    assert any("vectors differ by 1.0e-03" in problem for problem in report.wrong)
    assert Report(resident=[1, 1, 1, 1 + 2 * GROWTH_BYTES]).growth > GROWTH_BYTES
