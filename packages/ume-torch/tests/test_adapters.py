"""Adapters are merged as peft merges them, or refused; never loaded as if they were not there."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ume_core import LoadOptions
from ume_core.errors import CheckpointError
from ume_qwen.checkpoint import find_checkpoint
from ume_torch import TorchEmbedder

from .conftest import Make, copy, edit

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["q_proj", "v_proj", "down_proj", "qkv"]},
    "patterns": {
        "target_modules": "all-linear", "rank_pattern": {"q_proj": 7}, "use_rslora": True,
        "alpha_pattern": {"layers.1.self_attn.v_proj": 3, "mlp.gate_proj": 64},
    },
    "dora": {"target_modules": ["q_proj", "o_proj", "up_proj"], "use_dora": True},
    "saved": {"target_modules": ["k_proj"], "modules_to_save": ["lm_head", "norm"]},
    "bias": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
}  # fmt: skip


def transformers_model(directory: Path) -> Any:
    import transformers

    return transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        directory, torch_dtype=torch.float32
    )


def make_adapter(base: Path, target: Path, **settings: Any) -> Path:
    """A LoRA of the base with random weights, as peft saves it."""
    import peft

    torch.manual_seed(1)
    model = peft.get_peft_model(
        transformers_model(base), peft.LoraConfig(r=4, lora_alpha=16, **settings)
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "magnitude" not in name:
                weight += torch.randn_like(weight) * 0.1
    model.save_pretrained(str(target))
    edit(target / CONFIG, base_model_name_or_path=str(base))
    return target


def stub(base: Path, target: Path) -> Path:
    """An adapter's two files, as far as they are read before peft is needed."""
    target.mkdir()
    edit(target / CONFIG, peft_type="LORA", base_model_name_or_path=str(base))
    save_file({"x": torch.zeros(1)}, target / WEIGHTS)
    return target


def merged(base: Path, adapter: Path, target: Path) -> Path:
    """What peft itself makes of the two, saved as a checkpoint."""
    import peft

    model = peft.PeftModel.from_pretrained(transformers_model(base), adapter)
    copy(base, target, "model.safetensors")
    model.merge_and_unload().save_pretrained(target)  # type: ignore[operator]
    return target


def vectors(directory: Path) -> tuple[Any, Any, str]:
    engine = TorchEmbedder(directory, LoadOptions(device="cpu"))
    result = engine.embed(["a red apple", "two buses"], mode="both", max_new_tokens=6)
    return result.disc, result.gen, result.signature.weights


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_peft_merges_it(mini: Make, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft")
    base = mini()
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    disc, gen, weights = vectors(adapter)
    wanted = vectors(merged(base, adapter, tmp_path / "merged"))
    np.testing.assert_allclose(disc, wanted[0], atol=1e-6)
    np.testing.assert_allclose(gen, wanted[1], atol=1e-6)
    plain = vectors(base)
    assert np.abs(disc - plain[0]).max() > 1e-2  # the adapter matters
    assert len({weights, wanted[2], plain[2]}) == 3


def test_an_adapter_of_tied_embeddings_is_merged(mini: Make, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = mini(tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    wanted = vectors(merged(base, adapter, tmp_path / "merged"))
    np.testing.assert_allclose(vectors(adapter)[1], wanted[1], atol=1e-6)


def test_an_adapter_with_names_of_older_transformers_is_the_same(
    mini: Make, tmp_path: Path
) -> None:
    """Trained before 4.52: `model.layers.…` and `visual.…`, as most published adapters are."""
    pytest.importorskip("peft")
    settings = KINDS["lora"] | {
        "alpha_pattern": {"model.language_model.layers.0.mlp.down_proj": 99}
    }
    adapter = make_adapter(mini(), tmp_path / "adapter", **settings)
    old = shutil.copytree(adapter, tmp_path / "old")
    prefix = "base_model.model."
    tensors = {
        prefix + n.removeprefix(prefix).replace("model.language_model.", "model.")
        .replace("model.visual.", "visual."): t
        for n, t in load_file(adapter / WEIGHTS).items()
    }  # fmt: skip
    assert set(tensors) != set(load_file(adapter / WEIGHTS))
    save_file(tensors, old / WEIGHTS)
    edit(old / CONFIG, alpha_pattern={"model.layers.0.mlp.down_proj": 99})
    first, second = vectors(adapter), vectors(old)
    np.testing.assert_array_equal(first[1], second[1])


def test_weights_beside_an_adapter_are_its_base(mini: Make, tmp_path: Path) -> None:
    """As transformers 5.x loads such a directory; base_model_name_or_path is then only a note."""
    pytest.importorskip("peft")
    base = mini()
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS["lora"])
    both = copy(base, tmp_path / "both")
    shutil.copy(adapter / WEIGHTS, both)
    shutil.copy(adapter / CONFIG, both)
    edit(both / CONFIG, base_model_name_or_path="nobody/nothing")
    first, second = vectors(adapter), vectors(both)
    np.testing.assert_array_equal(first[1], second[1])
    assert first[2] == second[2] != vectors(base)[2]


def test_the_base_is_found_as_peft_finds_it_or_beside_the_adapter(
    mini: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = copy(mini(), tmp_path / "models" / "base")
    adapter = stub(base, tmp_path / "models" / "adapter")
    monkeypatch.chdir(tmp_path)
    for name in (str(base), "models/base", "../base"):
        edit(adapter / CONFIG, base_model_name_or_path=name)
        assert find_checkpoint(adapter).base == base
    for name in ("elsewhere/base", "/nowhere", None):
        edit(adapter / CONFIG, base_model_name_or_path=name)
        with pytest.raises(CheckpointError, match="base_model_name_or_path"):
            find_checkpoint(adapter)


def test_the_hub_id_of_a_base_is_taken_at_its_pin(
    mini: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, Any]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert not any("bin" in pattern for pattern in allow_patterns)
        asked.append((name, revision))
        return str(mini())

    adapter = stub(mini(), tmp_path / "adapter")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for revision, wanted in ((None, "e7aaa253cd315be20bd15c8704ad281b4fdf82c9"), ("abc", "abc")):
        edit(adapter / CONFIG, base_model_name_or_path="zhibinlan/UME-R1-2B", revision=revision)
        assert find_checkpoint(adapter).base == mini()
        assert asked.pop() == ("zhibinlan/UME-R1-2B", wanted)


def test_the_tokenizer_and_settings_of_an_adapter_are_its_own(mini: Make, tmp_path: Path) -> None:
    """Trainers save them beside the adapter, and may have changed them."""
    base = mini()
    adapter = stub(base, tmp_path / "adapter")
    found = find_checkpoint(adapter)
    assert found.tokenizer == base and found.directory == adapter
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(base / name, adapter)
    (adapter / "chat_template.jinja").write_text("own {{ messages[0]['content'][0]['text'] }}")
    edit(adapter / "preprocessor_config.json", max_pixels=12544)
    found = find_checkpoint(adapter)
    assert found.tokenizer == adapter and found.patches.max_pixels == 12544
    assert found.chat_template.startswith("own")
    places = {path.name: path.parent for path in found.side_files()}
    assert places["config.json"] == base and places["chat_template.jinja"] == adapter
    assert "chat_template.json" not in places  # the base's would win where both are copied
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        found.weight_files()


def test_without_peft_an_adapter_is_refused_with_its_base_named(
    mini: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = stub(mini(), tmp_path / "adapter")
    usual = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "peft":
            raise ImportError(name)
        return usual(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match=rf"LORA adapter of {mini()}.*pip install peft"):
        TorchEmbedder(adapter)


@pytest.mark.parametrize(
    ("what", "named"),
    [("missing", "lacks .*lora_B"), ("foreign", "has .*elsewhere"), ("rank", "size mismatch|shape"),
     ("no modules", "cannot be merged"), ("prompt", "not merge|cannot be merged"),
     ("unknown kind", "peft_type 'NEW'"), ("unknown setting", "brand_new"),
     ("megatron", "megatron_config"), ("no kind", "no peft_type"), ("pickled", "never loaded"),
     ("pickled base", "pytorch_model.bin is a pickle"),
     ("no config", "no adapter_config.json"), ("chain", "an adapter too"), ("lfs", "git-lfs")],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused(
    mini: Make, tmp_path: Path, what: str, named: str
) -> None:
    pytest.importorskip("peft")
    adapter = make_adapter(mini(), tmp_path / "adapter", **KINDS["lora"])
    tensors = load_file(adapter / WEIGHTS)
    first = next(name for name in tensors if "lora_B" in name)
    if what == "missing":
        save_file({n: t for n, t in tensors.items() if n != first}, adapter / WEIGHTS)
    elif what == "foreign":
        save_file(tensors | {"base_model.model.elsewhere.lora_A.weight": tensors[first].clone()},
                  adapter / WEIGHTS)  # fmt: skip
    elif what == "rank":
        edit(adapter / CONFIG, r=5)
    elif what == "no modules":
        edit(adapter / CONFIG, target_modules=["nothing"])
    elif what == "prompt":
        settings = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2,
                    "task_type": "CAUSAL_LM", "base_model_name_or_path": str(mini())}  # fmt: skip
        (adapter / CONFIG).write_text(json.dumps(settings))
    elif what == "unknown kind":
        edit(adapter / CONFIG, peft_type="NEW")
    elif what == "unknown setting":
        edit(adapter / CONFIG, brand_new=1)
    elif what == "megatron":
        edit(adapter / CONFIG, megatron_config={"a": 1}, megatron_core="os")
    elif what == "no kind":
        edit(adapter / CONFIG, "peft_type")
    elif what == "pickled":
        (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    elif what == "pickled base":
        adapter = shutil.copytree(adapter, tmp_path / "both")
        shutil.copy(mini() / "config.json", adapter)
        (adapter / "pytorch_model.bin").write_bytes(b"")
    elif what == "no config":
        copy(mini(), tmp_path / "both")
        shutil.copy(adapter / WEIGHTS, tmp_path / "both")
        adapter = tmp_path / "both"
    elif what == "chain":
        second = shutil.copytree(adapter, tmp_path / "second")
        edit(second / CONFIG, base_model_name_or_path=str(adapter))
        adapter = second
    else:
        (adapter / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(CheckpointError, match=named):
        TorchEmbedder(adapter)


def test_a_digest_covers_the_adapter_and_its_scale(mini: Make, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adapter = make_adapter(mini(), tmp_path / "adapter", **KINDS["lora"])
    first = find_checkpoint(adapter).digest()
    edit(adapter / CONFIG, lora_dropout=0.5, revision=None, target_modules=["v_proj", "q_proj"])
    assert find_checkpoint(adapter).digest() == first
    edit(adapter / CONFIG, lora_alpha=17)
    scaled = find_checkpoint(adapter).digest()
    tensors = load_file(adapter / WEIGHTS)
    save_file({n: t * 2 for n, t in tensors.items()}, adapter / WEIGHTS)
    assert len({first, scaled, find_checkpoint(adapter).digest()}) == 3
