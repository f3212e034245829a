"""Batches, budgets, caches and the order of items must not show in the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core import Image, LoadOptions, Sampling
from ume_core.testing.contract import picture
from ume_torch import TorchEmbedder
from ume_torch.options import TorchOptions
from ume_torch.testing.engine import close, many_items

Make = Callable[[str], Path]
KINDS = ["qwen2_vl", "qwen2_5_vl"]


@pytest.fixture(scope="module")
def qwen2(checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint("qwen2_vl"))


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint(request.param))


@pytest.mark.parametrize("mode", ["disc", "both"])
def test_alone_in_any_batch_and_in_any_order(engine: TorchEmbedder, mode: Any) -> None:
    items = many_items()
    whole = engine.embed(items, mode=mode, max_new_tokens=6)
    order = np.random.default_rng(1).permutation(len(items)).tolist()
    close(engine.embed([items[i] for i in order], mode=mode, max_new_tokens=6), whole, order)
    for i, item in enumerate(items):
        close(engine.embed([item], mode=mode, max_new_tokens=6), whole, [i])


@pytest.mark.parametrize(
    "options", [{"gen_rows": 1}, {"gen_rows": 3}, {"batch_tokens": 300}, {"media_cache_bytes": 0}]
)
def test_budgets_and_caches_do_not_show(
    checkpoint: Make, qwen2: TorchEmbedder, options: dict[str, Any]
) -> None:
    other = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=TorchOptions(**options))
    expected = qwen2.embed(many_items(), mode="both", max_new_tokens=9)
    close(other.embed(many_items(), mode="both", max_new_tokens=9), expected)
    sampling = Sampling(n=3, seed=4)
    expected = qwen2.embed(many_items()[:6], mode="gen", sampling=sampling, max_new_tokens=9)
    close(other.embed(many_items()[:6], mode="gen", sampling=sampling, max_new_tokens=9), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_invariant_engines_answer_bit_for_bit(checkpoint: Make, dtype: str) -> None:
    engine = TorchEmbedder(
        checkpoint("qwen2_vl"), LoadOptions(dtype=dtype), TorchOptions(invariant=True)
    )
    items = many_items()
    whole = engine.embed(items, mode="both", max_new_tokens=6)
    assert whole.disc is not None and whole.gen is not None
    for i in reversed(range(len(items))):
        alone = engine.embed([items[i]], mode="both", max_new_tokens=6)
        assert alone.disc is not None and alone.gen is not None
        assert (alone.disc[0] == whole.disc[i]).all() and (alone.gen[0] == whole.gen[i]).all()
        assert alone.records[0].samples == whole.records[i].samples


def test_a_picture_that_comes_again_is_computed_once(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ume_torch.vision as vision

    seen: list[int] = []
    original = vision.encode_visuals

    def counted(visual: Any, media: Any, varlen: Any) -> Any:
        seen.append(len(media))
        return original(visual, media, varlen)

    monkeypatch.setattr(vision, "encode_visuals", counted)
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    same = picture(3, 84, 56)
    engine.embed([Image(same), Image(same.copy()), {"image": same, "text": "a"}])
    assert sum(seen) == 1
    engine.embed([Image(same), Image(picture(9, 84, 56))])
    assert sum(seen) == 2
    engine.embed(["a", "b", "c"])  # the blank picture
    engine.embed(["d"])
    assert sum(seen) == 3
