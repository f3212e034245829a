"""JPEGs decoded at a fraction of their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ume_core import Image, LoadOptions
from ume_core.testing.contract import picture
from ume_torch import TorchEmbedder
from ume_torch.testing.engine import close

Make = Callable[[str], Path]


def test_jpeg_drafts_are_other_pixels_and_say_so(checkpoint: Make, tmp_path: Path) -> None:
    picture(1, 900, 700).save(tmp_path / "a.jpg", quality=95)
    picture(1, 900, 700).save(tmp_path / "a.png")
    item = [Image(tmp_path / "a.jpg", max_pixels=112 * 112)]
    exact = TorchEmbedder(checkpoint("qwen2_vl")).embed(item)
    engine = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(jpeg_draft=True))
    draft = engine.embed(item)
    assert exact.disc is not None and draft.disc is not None
    assert 1e-6 < np.abs(exact.disc - draft.disc).max() < 0.2
    assert exact.records[0].prompt_tokens == draft.records[0].prompt_tokens
    assert draft.signature.differences(exact.signature) == ["decoding: draft != exact"]
    png = [Image(tmp_path / "a.png")]
    close(engine.embed(png), TorchEmbedder(checkpoint("qwen2_vl")).embed(png))
