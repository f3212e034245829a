"""The embedded model as a deliverable: size, layout, plain transformers, quickstart's promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ume_core
import ume_nano
from tests.recipe import Recipe
from ume_core import ItemLike, LoadOptions
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.exported.manifest import Manifest
from ume_torch import TorchEmbedder

GALLERY = Path(__file__).resolve().parents[3] / "tools" / "gallery"


def test_it_fits_and_has_the_published_layout() -> None:
    files = {p.name: p.stat().st_size for p in ume_nano.path().rglob("*") if p.is_file()}
    graphs = {name: files.pop(name) for name in list(files) if name.endswith(".onnx")}
    assert sum(files.values()) < 20_000_000 and sum(graphs.values()) < 25_000_000
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


def test_its_graphs_are_of_these_very_weights() -> None:
    """After a change of the model: `python -m tools.nano.graphs`."""
    manifest = Manifest.read(ume_nano.path())
    assert manifest.weights == find_checkpoint(ume_nano.path()).digest()
    assert manifest.precision == "float32" and manifest.parity["max_difference"] < 1e-5


def test_its_graphs_give_the_vectors_of_its_weights() -> None:
    pytest.importorskip("onnxruntime")
    pictures = [GALLERY / f"{name}.png" for name in ("dog", "bus", "key")]
    mixed = {"text": "the same in red", "image": str(GALLERY / "red-apple.png")}
    items: list[ItemLike] = [*pictures, GALLERY / "dog-moving-left.mp4", "a red apple", mixed]
    quick: Any = ume_core.load("ume-nano", device="cpu")
    assert repr(quick) == "<ume-nano on onnxruntime+torch>"
    assert repr(quick.first) == "<ume-nano on onnxruntime, float32>"
    exact = TorchEmbedder(ume_nano.path(), LoadOptions(device="cpu")).embed(items, instruction="x")
    found = quick.embed(items, instruction="x")
    found.signature.check(exact.signature)
    np.testing.assert_allclose(found.vectors("disc"), exact.vectors("disc"), atol=1e-5)


CODE = """
import sys
import ume_core
model = ume_core.load("ume-nano", device="cpu")
model.embed(["a dog"])
print(model.name, sorted({"torch", "transformers"} & set(sys.modules)))
signature = model.signature("gen")
result = model.embed(["a dog"], mode="both", max_new_tokens=2)
assert result.signature.for_mode("gen") == signature
print("torch" in sys.modules)
"""


def test_torch_is_loaded_when_gen_is_first_asked_for() -> None:
    pytest.importorskip("onnxruntime")
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["onnxruntime+torch []", "True"]


def test_what_the_graphs_do_not_have_goes_to_torch() -> None:
    named: dict[str, Any]
    for named in ({"dtype": "float16"}, {"invariant": True}):
        assert ume_core.load("ume-nano", device="cpu", **named).name == "torch"
