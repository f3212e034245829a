"""What tests of the engine share: items of every kind, comparisons, memory that runs short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ume_core import Image
from ume_core.items import ItemLike
from ume_core.results import EmbeddingResult
from ume_core.testing.contract import mixed_items, picture
from ume_torch.decoder import Decoder


def close(a: EmbeddingResult, b: EmbeddingResult, rows: list[int] | None = None) -> None:
    """The same vectors and texts; `rows` maps a's items to b's."""
    order = rows if rows is not None else list(range(len(a)))
    for mine, theirs in ((a.disc, b.disc), (a.gen_samples, b.gen_samples)):
        if mine is not None and theirs is not None:
            assert np.abs(mine - theirs[order]).max() < 1e-5
    assert [r.samples for r in a.records] == [b.records[i].samples for i in order]


def many_items() -> list[ItemLike]:
    """Texts of many lengths with common beginnings, equal items, pictures that repeat."""
    rng = np.random.default_rng(5)
    texts = ["Find: " + "".join(map(chr, rng.integers(97, 122, n))) for n in (1, 3, 30, 60, 120)]
    same = picture(3, 84, 56)
    return [
        *mixed_items(), *texts, texts[2], Image(same), Image(same.copy()),
        {"image": same, "text": "what?"}, {"images": [same, picture(4)], "text": "which?"},
    ]  # fmt: skip


class Scarce:
    """Raises torch's own error where more than `rows` rows or `tokens` tokens run at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int) -> None:
        prefill, step = Decoder.prefill, Decoder.step
        self.refused = 0

        def short_prefill(decoder: Any, pack: Any, *args: Any, **named: Any) -> Any:
            if pack.tokens > tokens:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return prefill(decoder, pack, *args, **named)

        def short_step(decoder: Any, feed: Any, *args: Any) -> Any:
            if feed.shape[1] > rows:
                self.refused += 1
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
            return step(decoder, feed, *args)

        monkeypatch.setattr(Decoder, "prefill", short_prefill)
        monkeypatch.setattr(Decoder, "step", short_step)
