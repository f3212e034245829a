"""The embedded model as a deliverable: size, layout, plain transformers, quickstart's promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ume_nano
from tests.recipe import Recipe
from ume_core import LoadOptions
from ume_torch import TorchEmbedder

GALLERY = Path(__file__).resolve().parents[1] / "tools" / "gallery"


def test_it_fits_and_has_the_published_layout() -> None:
    files = {p.name: p.stat().st_size for p in ume_nano.path().iterdir()}
    assert sum(files.values()) < 20_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json",
            "generation_config.json", "chat_template.json", "README.md"} <= set(files)  # fmt: skip
    config = json.loads((ume_nano.path() / "config.json").read_text())
    # The flat form, which transformers 4.57 reads as well as 5.x.
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert "text_config" not in config


def test_the_published_recipe_gives_the_same_vectors() -> None:
    picture = GALLERY / "dog.png"
    recipe = Recipe(ume_nano.path(), "qwen2_vl", "readme")
    content = [
        {"type": "image", "image": str(picture), "max_pixels": 7056},
        {"type": "text", "text": "what is it?"},
    ]
    engine = TorchEmbedder(ume_nano.path(), LoadOptions(conventions="readme"))
    ours = engine.embed([[{"role": "user", "content": content}]], mode="both", max_new_tokens=64)
    assert ours.disc is not None and ours.gen is not None
    np.testing.assert_allclose(ours.disc[0], recipe.disc(content), atol=1e-5)
    vector, tokens = recipe.gen(content, 64)
    np.testing.assert_allclose(ours.gen[0], vector, atol=1e-5)
    assert len(tokens) == ours.records[0].generated_tokens


@pytest.mark.parametrize("name", ["dog", "pizza", "bicycle", "key"])
def test_it_finds_pictures_by_name(name: str) -> None:
    """Well above chance: the right one of the single drawings is among the best five."""
    files = sorted(p for p in GALLERY.glob("*.png") if p.name.count("-") < 2)
    engine = TorchEmbedder(ume_nano.path())
    pictures, words = engine.embed(files).disc, engine.embed([name]).disc
    assert pictures is not None and words is not None
    best = np.argsort(-(pictures @ words[0]))[:5]
    assert name in [files[i].stem for i in best]
