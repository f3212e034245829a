"""Our vectors against the published recipe, on random checkpoints of both architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PARITY
from tests.recipe import Recipe
from ume_core import Item, LoadOptions, Text
from ume_core.results import Vectors
from ume_core.signature import Mode
from ume_torch import TorchEmbedder

TOLERANCE = 1e-5
BUDGET = 12
KINDS = ("qwen2_vl", "qwen2_5_vl")


def cases(media: Path) -> dict[str, list[dict[str, Any]]]:
    """README-style content per case; the text is always last.

    Videos are short and wide enough that every transformers version gives them one set of
    positions; `test_positions` has those where versions disagree.
    """
    image = [{"type": "image", "image": f"file://{media}/image{i}.png"} for i in range(4)]
    frames = [f"file://{media}/frame{i}.png" for i in range(6)]
    small = {"min_pixels": 56 * 56, "max_pixels": 196 * 140}
    clip: dict[str, Any] = {"type": "video", "video": f"file://{media}/clip.mp4"}

    def text(words: str) -> dict[str, Any]:
        return {"type": "text", "text": words}

    return {
        "text": [text("Represent this: a red apple on a table.")],
        "one image": [image[0], text("What is in the image?")],
        "image, no words": [image[3], text("")],
        "sized image": [image[2] | {"max_pixels": 150 * 150}, text("Sized.")],
        "several images": [*image[:3], text("Represent the given images.")],
        "frame list": [{"type": "video", "video": frames, **small}, text("Represent this video.")],
        "mp4": [clip | small | {"fps": 2.0}, text("Represent this video.")],
        "mp4, total": [clip | {"min_pixels": 784, "total_pixels": 4 * 84 * 84, "nframes": 4},
                       text("Represent.")],
        "image and video": [image[1], clip | small | {"nframes": 4}, text("Compare them.")],
    }  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]
) -> tuple[str, Recipe, TorchEmbedder]:
    """The recipe and our engine on one checkpoint; `plain` because the README adds no blank."""
    kind: str = request.param
    directory = checkpoint(kind)
    return kind, Recipe(directory, kind), TorchEmbedder(directory, LoadOptions(text_only="plain"))


def _items(media: Path) -> list[Any]:
    return [[{"role": "user", "content": content}] for content in cases(media).values()]


def _note(kind: str, mode: str, media: Path, ours: Vectors, theirs: list[Vectors]) -> None:
    for case, mine, other in zip(cases(media), ours, theirs, strict=True):
        PARITY[kind, case, mode] = float(np.abs(mine - other).max())


def test_a_mixed_batch_equals_the_recipe_item_by_item(
    pair: tuple[str, Recipe, TorchEmbedder], media: Path
) -> None:
    kind, recipe, engine = pair
    result = engine.embed(_items(media), mode="both", max_new_tokens=BUDGET)
    assert result.disc is not None and result.gen is not None
    disc = [recipe.disc(content) for content in cases(media).values()]
    gen = [recipe.gen(content, BUDGET) for content in cases(media).values()]
    _note(kind, "disc", media, result.disc, disc)
    _note(kind, "gen", media, result.gen, [vector for vector, _ in gen])
    texts = [record.samples[0].text for record in result.records]
    assert texts == [recipe.processor.tokenizer.decode(tokens) for _, tokens in gen]
    np.testing.assert_allclose(result.disc, np.stack(disc), atol=TOLERANCE)
    np.testing.assert_allclose(result.gen, np.stack([v for v, _ in gen]), atol=TOLERANCE)
    # The checkpoint was made so that both ends occur; otherwise this test would show less.
    assert {record.status for record in result.records} == {"ok", "forced"}


def test_disc_alone_equals_disc_of_both_and_single_equals_batched(
    pair: tuple[str, Recipe, TorchEmbedder], media: Path
) -> None:
    _, _, engine = pair
    items = _items(media)
    both = engine.embed(items, mode="both", max_new_tokens=BUDGET)
    disc = engine.embed(items, mode="disc").disc
    assert disc is not None and both.disc is not None and both.gen is not None
    np.testing.assert_allclose(disc, both.disc, atol=TOLERANCE)
    for row, item in enumerate(items):
        alone = engine.embed([item], mode="both", max_new_tokens=BUDGET)
        assert alone.disc is not None and alone.gen is not None
        np.testing.assert_allclose(alone.disc[0], disc[row], atol=TOLERANCE)
        np.testing.assert_allclose(alone.gen[0], both.gen[row], atol=TOLERANCE)
        assert alone.records[0].samples == both.records[row].samples


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_the_blank_image_policy_is_the_official_collators(
    checkpoint: Callable[[str], Path], mode: Mode
) -> None:
    from PIL import Image as PILImage

    directory = checkpoint("qwen2_vl")
    recipe = Recipe(directory, "qwen2_vl")
    # 28 x 28 white in the collator; the processor's minimum makes 56 x 56 of it.
    blank = {"type": "image", "image": PILImage.new("RGB", (56, 56), (255, 255, 255))}
    content = [blank, {"type": "text", "text": "a red apple"}]
    expected = recipe.disc(content) if mode == "disc" else recipe.gen(content, BUDGET)[0]
    engine = TorchEmbedder(directory)
    result = engine.embed([Item((Text("a red apple"),))], mode=mode, max_new_tokens=BUDGET)
    np.testing.assert_allclose(result.vectors(mode)[0], expected, atol=TOLERANCE)
