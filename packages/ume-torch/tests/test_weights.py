"""Every weight comes from the files, whatever they are called and however they are spread."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ume_core import LoadOptions
from ume_core.errors import CheckpointError
from ume_core.qwen.checkpoint import find_checkpoint
from ume_torch import TorchEmbedder
from ume_torch.checkpoint import load_model

from .conftest import Make, copy, edit

Tensors = dict[str, torch.Tensor]
FAMILIES = (
    "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
    "model.layers.1.self_attn.k_proj.bias", "model.layers.2.mlp.down_proj.weight",
    "visual.patch_embed.proj.weight", "visual.blocks.0.attn.qkv.weight",
    "visual.merger.ln_q.weight",
)  # fmt: skip


def nested(name: str) -> str:
    """As transformers from 4.52 on names a parameter."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def without_head(name: str) -> str:
    """As sentence-transformers saves it: the inner model, no LM head."""
    return nested(name).removeprefix("model.")


def rewrite(
    source: Path, target: Path, change: Callable[[Tensors], Tensors], shards: int = 1
) -> Path:
    copy(source, target, "model.safetensors")
    tensors = change(load_file(source / "model.safetensors"))
    names = sorted(tensors)
    parts = [names[i::shards] for i in range(shards)]
    if shards == 1:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return target
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({n: tensors[n] for n in part}, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def renamed(rule: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rule(n): t for n, t in tensors.items()}


def dropping(name: str, rule: Callable[[str], str] = str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rule(n): t for n, t in tensors.items() if n != name}


def vectors(directory: Path, mode: Any = "both") -> dict[str, Any]:
    engine = TorchEmbedder(directory, LoadOptions(device="cpu"))
    result = engine.embed(["a red apple", "two buses"], mode=mode, max_new_tokens=6)
    assert result.disc is not None and result.gen is not None
    return {"disc": result.disc, "gen": result.gen, "weights": result.signature.weights}


def load(directory: Path) -> Any:
    return load_model(find_checkpoint(directory), "cpu", "float32", "sdpa")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rule", [str, nested])
def test_a_missing_weight_is_named(
    mini: Make, tmp_path: Path, name: str, rule: Callable[[str], str]
) -> None:
    directory = rewrite(mini(), tmp_path / "c", dropping(name, rule))
    with pytest.raises(CheckpointError, match=f"lacks 1 .*{nested(name)}"):
        load(directory)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_no_weight_at_all_can_be_missing(mini: Make, tmp_path: Path, kind: str) -> None:
    names = list(load_file(mini(kind) / "model.safetensors"))
    assert len(names) > 60
    for number, name in enumerate(names):
        directory = rewrite(mini(kind), tmp_path / str(number), dropping(name))
        with pytest.raises(CheckpointError, match="lacks 1 of the model's"):
            load(directory)


def test_a_missing_weight_of_a_shard_is_named(mini: Make, tmp_path: Path) -> None:
    directory = rewrite(mini(), tmp_path / "c", dropping("model.norm.weight", nested), shards=3)
    with pytest.raises(CheckpointError, match=r"model\.language_model\.norm\.weight"):
        load(directory)


def test_an_untied_head_is_needed_for_disc_too(mini: Make, tmp_path: Path) -> None:
    directory = rewrite(mini(), tmp_path / "c", dropping("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        TorchEmbedder(directory)


def test_a_renamed_weight_is_shown_beside_the_missing_one(mini: Make, tmp_path: Path) -> None:
    rule = renamed(lambda n: n.replace("model.norm.weight", "model.final_norm.weight"))
    with pytest.raises(CheckpointError, match=r"norm\.weight; model\.final_norm\.weight is there"):
        load(rewrite(mini(), tmp_path / "c", rule))


def test_a_weight_of_another_shape_is_named_with_both(mini: Make, tmp_path: Path) -> None:
    def cut(tensors: Tensors) -> Tensors:
        return tensors | {"model.norm.weight": torch.ones(32)}

    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \[32\].* \[64\]"):
        load(rewrite(mini(), tmp_path / "c", cut))


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.o_proj.bias", "model.layers.3.mlp.gate_proj.weight",
     "model.layers.0.self_attn.q_proj.lora_A.weight", "visual.blocks.7.norm1.weight"],
)  # fmt: skip
def test_a_weight_the_model_has_no_place_for_is_refused(
    mini: Make, tmp_path: Path, name: str
) -> None:
    directory = rewrite(mini(), tmp_path / "c", lambda t: t | {name: torch.zeros(64)})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(directory)


def test_a_foreign_head_is_passed_over_with_a_warning(mini: Make, tmp_path: Path) -> None:
    directory = rewrite(mini(), tmp_path / "c", lambda t: t | {"v_head.weight": torch.zeros(1, 64)})
    with pytest.warns(RuntimeWarning, match=r"v_head\.weight"):
        load(directory)


def test_frequencies_that_old_versions_saved_are_no_weights(mini: Make, tmp_path: Path) -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    directory = rewrite(mini(), tmp_path / "c", lambda t: t | {buffer: torch.zeros(8)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        load(directory)
    assert find_checkpoint(directory).digest() == find_checkpoint(mini()).digest()


@pytest.mark.parametrize(("rule", "shards"), [(str, 1), (nested, 1), (str, 3), (nested, 2)])
def test_names_and_shards_change_neither_vectors_nor_digest(
    mini: Make, tmp_path: Path, rule: Callable[[str], str], shards: int
) -> None:
    mine = vectors(rewrite(mini(), tmp_path / "c", renamed(rule), shards))
    first = vectors(mini())
    assert mine["weights"] == first["weights"]
    np.testing.assert_array_equal(mine["disc"], first["disc"])
    np.testing.assert_array_equal(mine["gen"], first["gen"])


def test_tied_embeddings_may_be_stored_once_or_twice(mini: Make, tmp_path: Path) -> None:
    source = mini(tied=True)
    assert "lm_head.weight" not in load_file(source / "model.safetensors")

    def both(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    def head_alone(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors.pop("model.embed_tokens.weight")}

    first = vectors(source)
    forms = [both, head_alone, renamed(without_head)]
    for number, change in enumerate(forms):
        mine = vectors(rewrite(source, tmp_path / str(number), change))
        assert mine["weights"] == first["weights"]
        np.testing.assert_array_equal(mine["gen"], first["gen"])


def test_tied_embeddings_that_differ_are_refused(mini: Make, tmp_path: Path) -> None:
    def differ(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}

    directory = rewrite(mini(tied=True), tmp_path / "c", differ)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        TorchEmbedder(directory)


def test_tied_embeddings_missing_altogether_are_named(mini: Make, tmp_path: Path) -> None:
    directory = rewrite(mini(tied=True), tmp_path / "c", dropping("model.embed_tokens.weight"))
    with pytest.raises(CheckpointError, match="embed_tokens"):
        TorchEmbedder(directory)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_transformers_saves_keeps_vectors_and_digest(
    mini: Make, tmp_path: Path, kind: str, tied: bool
) -> None:
    """`save_pretrained` of model and processor by the installed line, sharded."""
    import transformers

    source = mini(kind, tied)
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[kind]
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    model = model_class.from_pretrained(source, torch_dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    mine, first = vectors(tmp_path), vectors(source)
    np.testing.assert_array_equal(mine["disc"], first["disc"])
    np.testing.assert_array_equal(mine["gen"], first["gen"])
    assert mine["weights"] == first["weights"]


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("tie_at", ["top", "text"])
def test_a_configuration_of_any_line_gives_one_model(
    mini: Make, tmp_path: Path, theta: float, tie_at: str
) -> None:
    """5.x nests the text model and keeps theta in rope_parameters, late 4.x has it all twice."""
    source = mini(tied=True)
    flat = json.loads((source / "config.json").read_text()) | {"rope_theta": theta}
    top = {k: v for k, v in flat.items() if "token_id" in k or k in ("model_type", "vision_config")}
    text = {k: v for k, v in flat.items() if k not in top and k != "tie_word_embeddings"}
    tie = {"tie_word_embeddings": True}
    nested_top, nested_text = (top | tie, text) if tie_at == "top" else (top, text | tie)
    rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": theta}
    five = {k: v for k, v in nested_text.items() if k not in ("rope_theta", "rope_scaling")}
    forms = [
        flat,
        nested_top | {"text_config": five | {"rope_parameters": rope}},
        flat | {"text_config": text | tie, "hidden_size": 9999},
    ]
    found = []
    for number, form in enumerate(forms):
        directory = copy(source, tmp_path / str(number))
        (directory / "config.json").write_text(json.dumps(form))
        found.append(vectors(directory))
    for mine in found[1:]:
        np.testing.assert_array_equal(mine["gen"], found[0]["gen"])
        assert mine["weights"] == found[0]["weights"]


def test_a_yarn_scaled_checkpoint_equals_transformers(mini: Make, tmp_path: Path) -> None:
    """As the Qwen2-VL README shows for long inputs."""
    import transformers

    directory = copy(mini(), tmp_path / "c")
    scaling = {"type": "yarn", "mrope_section": [2, 3, 3], "factor": 4,
               "original_max_position_embeddings": 32768}  # fmt: skip
    edit(directory / "config.json", rope_scaling=scaling)
    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        directory, torch_dtype=torch.float32
    )
    mine = load(directory)
    for a, b in ((mine, model),):
        left, right = (m.model.language_model.rotary_emb for m in (a, b))
        torch.testing.assert_close(left.inv_freq, right.inv_freq, rtol=0, atol=0)
        assert left.attention_scaling == right.attention_scaling != 1.0
    assert find_checkpoint(directory).digest() != find_checkpoint(mini()).digest()
