"""No key of a checkpoint's files passes in silence.

Every key of the published files, and of those that the installed transformers saves, is obeyed
(another value is another signature), refused, warned about, or stands in a list with the reason why
it has no part in a vector.
"""

from __future__ import annotations

import copy as copying
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ume_core import LoadOptions
from ume_core.errors import CheckpointError
from ume_qwen import config, processor, tokenizer_files
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.rules import Rule, check_keys
from ume_qwen.tokens import Tokenizer

from .conftest import Make, copy

FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json",
)  # fmt: skip


def rule_of(name: str, path: tuple[str, ...], kind: str) -> Rule:
    """The rule for a key of a file."""
    nested = {
        "text_config": config.TEXT_RULES, "vision_config": config.vision_rules(kind),
        "image_processor": processor.IMAGE_RULES, "video_processor": processor.VIDEO_RULES,
    }  # fmt: skip
    if path[0] in nested:
        return nested[path[0]][path[1]]
    if path[0] == "added_tokens_decoder":
        return tokenizer_files.TOKEN_RULES[path[2]]
    return {
        "config.json": config.CONFIG_RULES, "generation_config.json": config.GENERATION_RULES,
        "preprocessor_config.json": processor.IMAGE_RULES,
        "processor_config.json": processor.PROCESSOR_RULES,
        "video_preprocessor_config.json": processor.VIDEO_RULES,
        "tokenizer_config.json": tokenizer_files.SETTINGS_RULES,
    }[name][path[0]]  # fmt: skip


# Qwen/Qwen2-VL-2B-Instruct, zhibinlan/UME-R1-2B (saved by transformers 4.49) and
# Qwen/Qwen2.5-VL-7B-Instruct: the keys of their files.
VISION_2 = {
    "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
    "hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
    "temporal_patch_size": 2,
}  # fmt: skip
CONFIG_2 = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
    "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
    "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 1536,
    "initializer_range": 0.02, "intermediate_size": 8960, "max_position_embeddings": 32768,
    "max_window_layers": 28, "model_type": "qwen2_vl", "num_attention_heads": 12,
    "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True,
    "use_sliding_window": False, "vision_config": VISION_2,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
}  # fmt: skip
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "config.json": [
        CONFIG_2,
        CONFIG_2 | {
            "_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "use_cache": False,
            "transformers_version": "4.49.0",
            "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default",
                             "type": "default"},
            "vision_config": {"hidden_size": 1536, "in_chans": 3, "model_type": "qwen2_vl",
                              "spatial_patch_size": 14},
        },
        CONFIG_2 | {
            "model_type": "qwen2_5_vl", "hidden_size": 3584, "num_attention_heads": 28,
            "num_key_value_heads": 4, "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420,
                "num_heads": 16, "in_chans": 3, "out_hidden_size": 3584, "patch_size": 14,
                "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
                "temporal_patch_size": 2,
            },
        },
    ],
    "generation_config.json": [
        {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
         "eos_token_id": [151645, 151643], "temperature": 0.01, "top_k": 1, "top_p": 0.001,
         "transformers_version": "4.37.0"},
        {"bos_token_id": 151643, "eos_token_id": 151645, "transformers_version": "4.49.0"},
    ],
    "preprocessor_config.json": [
        {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
         "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
         "image_std": [0.26862954, 0.26130258, 0.27577711],
         "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"},
        {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
         "image_mean": [0.48145466, 0.4578275, 0.40821073],
         "image_processor_type": "Qwen2VLImageProcessor",
         "image_std": [0.26862954, 0.26130258, 0.27577711], "max_pixels": 2359296,
         "merge_size": 2, "min_pixels": 784, "patch_size": 14,
         "processor_class": "Qwen2VLProcessor", "resample": 3,
         "rescale_factor": 0.00392156862745098,
         "size": {"max_pixels": 2359296, "min_pixels": 784}, "temporal_patch_size": 2},
    ],
    "tokenizer_config.json": [
        {"add_prefix_space": False, "added_tokens_decoder": {}, "additional_special_tokens": [],
         "bos_token": None, "chat_template": "x", "clean_up_tokenization_spaces": False,
         "eos_token": "<|im_end|>", "padding_side": "left", "errors": "replace",
         "extra_special_tokens": {}, "model_max_length": 32768, "pad_token": "<|endoftext|>",
         "processor_class": "Qwen2VLProcessor", "split_special_tokens": False,
         "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "add_bos_token": False},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_are_read_without_a_word(tmp_path: Path, name: str) -> None:
    for settings in PUBLISHED[name]:
        (tmp_path / name).write_text(json.dumps(settings))
        if name == "config.json":
            found = config.read_config(tmp_path / name)
            assert found["text_config"]["rope_theta"] == 1e6
            assert found["text_config"]["rope_scaling"] == {
                "rope_type": "default", "mrope_section": [16, 24, 24],
            }  # fmt: skip
        elif name == "generation_config.json":
            config.read_generation(tmp_path)
        elif name == "preprocessor_config.json":
            patches = processor.read_patch_config(tmp_path)
            assert patches.max_pixels == settings["max_pixels"]
        else:
            check_keys(name, settings, tokenizer_files.SETTINGS_RULES)


def saved(source: Path, target: Path, kind: str) -> Path:
    """What the installed transformers writes for the checkpoint; its weights are not needed."""
    import transformers

    copy(source, target)
    name = {"qwen2_vl": "Qwen2VLConfig", "qwen2_5_vl": "Qwen2_5_VLConfig"}[kind]
    getattr(transformers, name).from_pretrained(source).save_pretrained(target)
    transformers.GenerationConfig.from_pretrained(source).save_pretrained(target)
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(target)
    if (target / "processor_config.json").is_file():  # 5.x: the old files would be passed over
        (target / "preprocessor_config.json").unlink()
    (target / "chat_template.json").unlink()
    return target


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key's path and value; objects are entered, lists are values."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


def another(value: Any) -> Any:
    """Some other value of the same type; of null, a number."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1 if value < 10_000 else 7001
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return [another(value[0]), *value[1:]] if value else ["x"]
    return 7 if value is None else {"key": "x"}


def outcome(directory: Path) -> tuple[Any, ...]:
    """What a signature says of the checkpoint."""
    checkpoint = find_checkpoint(directory)
    patches = checkpoint.patches
    Tokenizer(checkpoint.tokenizer, checkpoint.config)
    return checkpoint.digest(), patches.min_pixels, patches.max_pixels, checkpoint.context_length


@pytest.mark.parametrize(
    ("kind", "form"),
    [("qwen2_vl", "published"), ("qwen2_vl", "saved"), ("qwen2_5_vl", "saved")],
)
def test_every_key_is_obeyed_refused_named_or_listed_with_a_reason(
    mini: Make, tmp_path: Path, kind: str, form: str
) -> None:
    source = mini(kind)
    if form == "saved":
        source = saved(source, tmp_path / "saved", kind)
    first = outcome(source)
    walked = 0
    for name in FILES:
        if not (source / name).is_file():
            continue
        whole = json.loads((source / name).read_text("utf-8"))
        directory = copy(source, tmp_path / name)
        for path, value in leaves(whole):
            if "text_config" in whole and path[0] in config.TEXT_RULES:
                continue  # late 4.x writes these twice; the nested ones count
            if path[0] == "added_tokens_decoder" and path[1] != "6130":
                continue  # one token stands for all
            if path == ("chat_template",) and (source / "chat_template.json").is_file():
                continue  # the tokenizer's serves where there is no other
            if path[0] == "size" and "min_pixels" in whole:
                continue  # min_pixels and max_pixels replace its two ends
            if "video" in f"{name} {path}" and path[-1] in ("shortest_edge", "min_pixels"):
                continue  # counts only below the recipe's own, with a small longest_edge
            changed = copying.deepcopy(whole)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = another(value)
            (directory / name).write_text(json.dumps(changed), "utf-8")
            walked += 1
            try:
                same = outcome(directory) == first
            except (CheckpointError, RuntimeWarning) as error:
                named = (*path, repr(another(value)))
                assert any(n in str(error) for n in named), (path, error)
            else:
                rule = rule_of(name, path, kind)
                assert not same or (rule.why and not rule.obeyed), f"{name}: {path} is passed over"
    assert walked > 60


@pytest.mark.parametrize(
    ("name", "parent"),
    [("config.json", None), ("config.json", "vision_config"), ("generation_config.json", None),
     ("preprocessor_config.json", None), ("processor_config.json", None),
     ("video_preprocessor_config.json", None), ("tokenizer_config.json", None)],
)  # fmt: skip
def test_an_unknown_key_is_named(mini: Make, tmp_path: Path, name: str, parent: str | None) -> None:
    directory = copy(mini(), tmp_path / "c")
    path = directory / name
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    (settings[parent] if parent else settings)["brand_new_setting"] = 3
    path.write_text(json.dumps(settings), "utf-8")
    with pytest.warns(RuntimeWarning, match=r"brand_new_setting \(3\)"):
        Preparer(find_checkpoint(directory), LoadOptions())


def test_settings_that_would_change_a_greedy_answer_are_named(mini: Make, tmp_path: Path) -> None:
    """Qwen2.5-VL's, which transformers' generate() applies to greedy answers too."""
    directory = copy(mini(), tmp_path / "c")
    path = directory / "generation_config.json"
    path.write_text(json.dumps({"repetition_penalty": 1.05, "do_sample": True}))
    with pytest.warns(RuntimeWarning, match=r"repetition_penalty \(1\.05\)"):
        find_checkpoint(directory)
    path.write_text(json.dumps({"repetition_penalty": 1.0, "temperature": 0.1}))
    find_checkpoint(directory)
