"""Our vectors against the published recipes, on random checkpoints of both architectures.

The main environment runs qwen-vl-utils 0.0.14, export's the 0.0.11 that upstream used; each checks
both conventions, with the rule for frame lists of the version that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import PARITY
from tests.recipe import GENERATION_PROMPT, README_PROMPT, UTILS, Recipe
from ume_core import Image, LoadOptions, Text
from ume_core.results import Vectors
from ume_core.signature import MODES
from ume_core.testing.contract import picture
from ume_torch import TorchEmbedder

TOLERANCE = 1e-5
# utils-0.0.14 enlarges small frames. By a simple fraction many pixels lie half-way between two
# bytes, and torchvision's last float32 bit decides: one pixel in 1,400 differs by 1/255.
ENLARGED = 5e-5
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
        "white space": [image[0], text(" \tWhat is it? \n")],
        "large image": [{"type": "image", "image": f"file://{media}/large.png"}, text("Large.")],
        "small image": [{"type": "image", "image": f"file://{media}/small.png"}, text("Small.")],
        "small frames": [{"type": "video", "video": [f"file://{media}/small.png"] * 3}, text("?")],
        "frame list": [{"type": "video", "video": frames, **small}, text("Represent this video.")],
        "mp4": [clip | small | {"fps": 2.0}, text("Represent this video.")],
        "mp4, total": [clip | {"min_pixels": 784, "total_pixels": 4 * 84 * 84, "nframes": 4},
                       text("Represent.")],
        "image and video": [image[1], clip | small | {"nframes": 4}, text("Compare them.")],
    }  # fmt: skip


@pytest.fixture(
    scope="module", params=[(k, c) for k in KINDS for c in ("official", "readme")], ids="-".join
)
def pair(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]
) -> tuple[str, Recipe, TorchEmbedder]:
    """A recipe and our engine on one checkpoint."""
    kind, conventions = request.param
    directory = checkpoint(kind)
    options = LoadOptions(conventions=conventions, frame_lists=f"utils-{UTILS}")
    return kind, Recipe(directory, kind, conventions), TorchEmbedder(directory, options)


def _items(media: Path) -> list[Any]:
    return [[{"role": "user", "content": content}] for content in cases(media).values()]


def _note(kind: str, mode: str, media: Path, ours: Vectors, theirs: list[Vectors]) -> None:
    for case, mine, other in zip(cases(media), ours, theirs, strict=True):
        found = float(np.abs(mine - other).max())
        PARITY[kind, case, mode] = max(found, PARITY.get((kind, case, mode), 0.0))


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
    for row, case in enumerate(cases(media)):
        near = ENLARGED if case == "small frames" else TOLERANCE
        np.testing.assert_allclose(result.disc[row], disc[row], atol=near)
        np.testing.assert_allclose(result.gen[row], gen[row][0], atol=near)
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


@pytest.mark.parametrize("conventions", ["official", "readme"])
def test_a_message_pasted_from_the_published_code_gives_the_published_vectors(
    checkpoint: Callable[[str], Path], media: Path, conventions: str
) -> None:
    """Not our messages with a request added, but upstream's own, request and all."""
    directory = checkpoint("qwen2_vl")
    recipe = Recipe(directory, "qwen2_vl", conventions)
    content = cases(media)["one image"]
    engine = TorchEmbedder(directory, LoadOptions(conventions=conventions))
    for asked in (README_PROMPT, GENERATION_PROMPT, " " + GENERATION_PROMPT, ""):
        typed = content[-1]["text"] + "\n<disc_emb>\n" + asked
        pasted = [{"role": "user", "content": [content[0], {"type": "text", "text": typed}]}]
        result = engine.embed([pasted], mode="both", max_new_tokens=BUDGET)
        assert result.disc is not None and result.gen is not None
        np.testing.assert_allclose(result.disc[0], recipe.disc(content), atol=TOLERANCE)
        np.testing.assert_allclose(result.gen[0], recipe.gen(content, BUDGET)[0], atol=TOLERANCE)
        assert not result.records[0].warnings


def test_a_request_that_is_not_recognised_is_warned_about_in_the_record(
    checkpoint: Callable[[str], Path],
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    odd = [{"role": "user", "content": "a dog\n<disc_emb>\nSummarise it."}]
    for mode in MODES:
        result = engine.embed(["a dog", odd], mode=mode, max_new_tokens=4)
        fine, warned = result.records
        assert not fine.warnings and "<disc_emb>" in warned.warnings[0]


def test_an_answers_log_probability_is_transformers(checkpoint: Callable[[str], Path]) -> None:
    recipe = Recipe(checkpoint("qwen2_vl"), "qwen2_vl")
    text = {"type": "text", "text": "a red apple"}
    found = recipe.model.generate(
        **recipe.inputs([text], gen=True), max_new_tokens=12, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    scores = recipe.model.compute_transition_scores(
        found.sequences, found.logits, normalize_logits=True
    )[0]
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    sample = engine.embed(["a red apple"], mode="gen", max_new_tokens=12).records[0].samples[0]
    expected = float(scores[: sample.generated_tokens].mean())
    assert sample.generated_tokens > 3
    assert sample.mean_logprob == pytest.approx(expected, abs=1e-4)


def test_mtebs_own_wrapper_gives_the_same_gen_vectors(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle nobody here wrote: mteb 2.26's `UMER1Wrapper`, in float32."""
    pytest.importorskip("mteb", reason="mteb is in the main environment only")
    import transformers
    from mteb.models.model_implementations.ume_r1 import UMER1Wrapper

    model: Any = transformers.Qwen2VLForConditionalGeneration
    load = model.from_pretrained

    def in_float32(*given: Any, **asked: Any) -> Any:
        return load(*given, **(asked | {"torch_dtype": torch.float32}))

    monkeypatch.setattr(model, "from_pretrained", in_float32)
    directory = checkpoint("qwen2_vl")
    theirs: Any = UMER1Wrapper(str(directory), device="cpu")
    generate = theirs.model.generate

    def until_the_embedding(**asked: Any) -> Any:
        """A trained model ends its answer there; mteb asks for 8,192 tokens and takes the last."""
        done = [lambda ids, _: ids[:, -2] == theirs.gen_emb_id]
        return generate(**(asked | {"max_new_tokens": 64, "stopping_criteria": done}))

    monkeypatch.setattr(theirs.model, "generate", until_the_embedding)
    rows = {
        "text": ["a red apple", " what is it? ", "  a text with <|image_pad|> in it "],
        "image": [[], [picture(1, 112, 84)], [picture(2, 84, 140), picture(3, 112, 112)]],
    }
    items = [[*map(Image, images), Text(text)] for text, images in zip(*rows.values(), strict=True)]
    ours = TorchEmbedder(directory).embed(items, mode="gen", max_new_tokens=64)
    assert ours.gen is not None
    for row, record in enumerate(ours.records):
        assert record.status == "ok"  # else mteb takes another token's state
        batch = {name: [values[row]] for name, values in rows.items()}
        found = _encode(theirs, batch)[0]
        np.testing.assert_allclose(ours.gen[row], found, atol=TOLERANCE)


def _encode(wrapper: Any, batch: dict[str, list[Any]]) -> Any:
    class Loader(list[Any]):
        class dataset:
            features = ("text", "image")

    return wrapper.encode(
        Loader([batch]), task_metadata=None, hf_split="", hf_subset="", show_progress_bar=False
    ).numpy()
