"""How much gen thinks, and answers remembered from an earlier run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core import InvalidOption, LoadOptions, Sampling, SignatureMismatch
from ume_core.testing.contract import picture
from ume_torch import TorchEmbedder
from ume_torch.options import TorchOptions
from ume_torch.testing.engine import Scarce, close, many_items

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def qwen2(checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint("qwen2_vl"))


def test_short_no_and_skipped_thinking_say_what_they_are(
    checkpoint: Make, qwen2: TorchEmbedder
) -> None:
    full = qwen2.embed(["a text"], mode="both", max_new_tokens=20)
    cases = (
        (LoadOptions(thinking="none"), "<think></think><answer>", "none"),
        (LoadOptions(thinking="skip"), "<gen_emb>", "skip"),
        (LoadOptions(thinking="short", thinking_tokens=2), "</think><answer>", "short-2"),
    )
    for options, text, name in cases:
        engine = TorchEmbedder(checkpoint("qwen2_vl"), options)
        found = engine.embed(["a text"], mode="both", max_new_tokens=20)
        sample = found.records[0].samples[0]
        assert text in sample.text and sample.text.endswith("<gen_emb>")
        assert found.gen is not None and full.gen is not None
        assert np.abs(found.gen - full.gen).max() > 1e-4
        assert found.signature.for_mode("gen").differences(full.signature.for_mode("gen")) == [
            f"thinking: {name} != full"
        ]
        # disc stands before the answer: the same vectors, comparable.
        assert found.disc is not None and full.disc is not None
        assert np.abs(found.disc - full.disc).max() < 1e-6
        found.signature.for_mode("disc").check(full.signature.for_mode("disc"))
    skipped = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(thinking="skip"))
    assert skipped.embed(["a"], mode="gen").records[0].generated_tokens == 0
    with pytest.raises(InvalidOption, match="unknown thinking"):
        TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(thinking="some"))


def test_an_answer_goes_on_from_the_beginning_it_is_given(
    checkpoint: Make, qwen2: TorchEmbedder, tmp_path: Path
) -> None:
    items = ["a red apple", picture(1)]
    thoughtless = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(thinking="none"))
    expected = thoughtless.embed(items, mode="gen", max_new_tokens=12)
    found = qwen2.embed_after(items, ["<think></think><answer>"] * 2, max_new_tokens=12)
    close(found, expected)
    with pytest.raises(SignatureMismatch, match="thinking: given"):
        found.signature.check(expected.signature)
    caching = TorchOptions(gen_cache=tmp_path / "answers.db")
    remembers = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=caching)
    for beginning in ("<think>one</think>", "<think>two</think>"):  # neither is remembered
        found = remembers.embed_after(["a red apple"], [beginning], max_new_tokens=5)
        assert found.records[0].samples[0].text.startswith(beginning)
        assert found.records[0].generated_tokens == 5
    with pytest.raises(InvalidOption, match="2 items have 1 beginnings"):
        qwen2.embed_after(items, [""])


def test_the_gen_cache_answers_without_the_model_and_only_for_the_same_question(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TorchOptions(gen_cache=tmp_path / "answers.db")
    first = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=options)
    items = many_items()
    expected = first.embed(items, mode="both", max_new_tokens=5)
    again = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=options)
    with monkeypatch.context() as patch:
        Scarce(patch, tokens=0, rows=0)
        close(again.embed(items[::-1], mode="both", max_new_tokens=5)
              , expected, list(range(len(items)))[::-1])  # fmt: skip
        for other in (
            {"max_new_tokens": 6}, {"sampling": Sampling(n=2)}, {"instruction": "Find:"},
        ):  # fmt: skip
            call: dict[str, Any] = {"max_new_tokens": 5} | other
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = again.embed(["a red apple"], mode="gen", on_error="record", **call)
            assert found.failed == [0]
    (tmp_path / "no.db").write_bytes(b"not a database, but long enough to look like a file" * 9)
    with pytest.raises(InvalidOption, match="gen cache"):
        TorchEmbedder(checkpoint("qwen2_vl"), None, TorchOptions(gen_cache=tmp_path / "no.db"))
