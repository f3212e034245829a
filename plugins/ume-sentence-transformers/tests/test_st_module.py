"""Engines behind a `SentenceTransformer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from ume_core import Image, InvalidOption, Limits, LoadOptions, MediaError
from ume_core.testing.contract import picture
from ume_core.testing.fake import FakeEmbedder
from ume_sentence_transformers import load
from ume_torch import TorchEmbedder


def mixed() -> list[Any]:
    return [
        "a text", Image(picture(1)), {"image": picture(2), "text": "what?"},
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_mixed_lists_equal_the_engine(checkpoint: Callable[[str], Path], mode: Any) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(limits=Limits(new_tokens=5)))
    model: Any = load(engine, mode=mode)
    expected = engine.embed(mixed(), mode=mode)
    assert np.abs(model.encode(mixed(), batch_size=2) - expected.vectors(mode)).max() < 1e-5
    records = model.encode(mixed(), output_value="ume_record")
    assert [r.samples for r in records] == [r.samples for r in expected.records]
    prompted = model.encode(["a text"], prompt="Find:")
    instructed = engine.embed(["a text"], mode=mode, instruction="Find:")
    assert np.abs(prompted - instructed.vectors(mode)).max() < 1e-5


def test_a_bad_item_is_shown_since_batches_are_sorted() -> None:
    model: Any = load("ume-nano")
    with pytest.raises(MediaError, match=r"^\{'image': 'nope.png'\}: no such file: nope.png"):
        model.encode(["a", "a dog", {"image": "nope.png"}, "a longer text"])


def test_evaluators_run_on_it() -> None:
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    evaluator = InformationRetrievalEvaluator(
        queries={"a": "red apple", "b": "dog"},
        corpus={"1": "a red apple", "2": "a dog", "3": "a bus"},
        relevant_docs={"a": {"1"}, "b": {"2"}}, accuracy_at_k=[1], precision_recall_at_k=[1],
        mrr_at_k=[1], ndcg_at_k=[1], map_at_k=[1], show_progress_bar=False,
    )  # fmt: skip
    assert evaluator(load("ume-nano"))["cosine_accuracy@1"] == 1.0


def test_it_saves_how_it_was_loaded(tmp_path: Path) -> None:
    model: Any = load("ume-nano")
    model.save_pretrained(str(tmp_path / "m"))
    again: Any = SentenceTransformer(str(tmp_path / "m"), trust_remote_code=True, device="cpu")
    assert (again.encode(["a dog"]) == model.encode(["a dog"])).all()
    with pytest.raises(InvalidOption, match="Fix"):
        load(FakeEmbedder()).save_pretrained(str(tmp_path / "n"))


def test_modes_without_one_vector_are_refused() -> None:
    with pytest.raises(InvalidOption, match="twice"):
        load("ume-nano", mode="both")
    assert load("ume-nano").get_sentence_embedding_dimension() == 192
