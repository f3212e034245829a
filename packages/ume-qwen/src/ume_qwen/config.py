"""config.json and generation_config.json, in one form for every transformers line.

transformers 4.x writes the text model's settings flat, 5.x in `text_config`, late 4.x both ways at
once (the nested ones count); rotary settings are `rope_scaling` and `rope_theta` or
`rope_parameters`. transformers 4.57 reads a 5.x file with the default theta, without a word. What
is read here has one form, which both lines load alike: it is what the model is built from and what
a digest covers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_qwen.files import optional_json, read_json
from ume_qwen.rules import OBEYED, Rule, check_keys, each, ignored, only
from ume_qwen.sizes import MERGE, PATCH, TEMPORAL_PATCH
from ume_qwen.tokenizer_files import CLASSES

ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
# Scaled rotary embeddings whose frequencies do not change with the length of the input.
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")
# Defaults: `Qwen2VLTextConfig`, `Qwen2VLVisionConfig` and those of Qwen2.5-VL in transformers
# 4.57.6 and 5.23.0, `models/qwen2_*vl/configuration_*.py`.
_TEXT: dict[str, Any] = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
}  # fmt: skip
_VISION_COMMON: dict[str, Any] = {
    "depth": 32, "hidden_size": 3584, "num_heads": 16, "in_channels": 3, "patch_size": PATCH,
    "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL_PATCH,
}  # fmt: skip
_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": _VISION_COMMON | {"embed_dim": 1280, "hidden_act": "quick_gelu", "mlp_ratio": 4},
    "qwen2_5_vl": _VISION_COMMON
    | {
        "hidden_act": "silu", "intermediate_size": 3420, "out_hidden_size": 3584,
        "tokens_per_second": 4, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip
_TOKENS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}
_THETA = 1_000_000.0
_VISION_ROPE: tuple[dict[str, Any], ...] = (
    {"rope_theta": 10000.0, "rope_type": "axial"},
    {"rope_theta": 10000.0},
    {},
)

# What configurations of either line hold besides.
_NOTES: dict[str, Rule] = (
    each("_name_or_path architectures transformers_version _commit_hash model_type "
         "problem_type finetuning_task task_specific_params id2label label2id num_labels prefix",
         ignored("a note"))
    | each("dtype torch_dtype use_bfloat16", ignored("the precision is the engine's option"))
    | each("attn_implementation _attn_implementation _attn_implementation_autoset",
           ignored("the kernel is the engine's option"))
    | each("use_cache return_dict output_hidden_states output_attentions torchscript "
           "tf_legacy_loss chunk_size_feed_forward output_scores return_dict_in_generate",
           ignored("how transformers' own forward pass answers"))
    | each("attention_dropout initializer_range", ignored("training only"))
    | each("is_encoder_decoder is_decoder add_cross_attention tie_encoder_decoder "
           "cross_attention_hidden_size decoder_start_token_id",
           ignored("not of this architecture"))
    | each("bos_token_id eos_token_id pad_token_id sep_token_id",
           ignored("tokens are looked up by name"))
    | {"auto_map": ignored("code of a checkpoint is never run, as transformers does by default"),
       "pruned_heads": only({}, [], None)}
)  # fmt: skip
# transformers 4.x: generation settings in config.json, which generation_config.json replaces.
_GENERATION: dict[str, Rule] = each(
    "do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff max_length "
    "max_new_tokens max_time early_stopping num_return_sequences length_penalty use_mtp "
    "cache_implementation cache_config max_cache_len return_legacy_cache prefill_chunk_size "
    "output_logits remove_invalid_values renormalize_logits is_assistant num_assistant_tokens "
    "num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens "
    "max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind "
    "assistant_ensemble_weight speculation_type compile_config disable_compile low_memory "
    "continuous_batching_config _from_model_config chat_format trust_remote_code",
    ignored("answers are greedy, or sampled as the caller asks"),
)
# Those that change a greedy answer in transformers, and the value with which they do not.
_GREEDY: dict[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "penalty_alpha": 0.0, "guidance_scale": 1.0,
    "token_healing": False, "bad_words_ids": [], "force_words_ids": [], "constraints": [],
    "suppress_tokens": [], "begin_suppress_tokens": [], "forced_bos_token_id": [],
    "forced_eos_token_id": [], "exponential_decay_length_penalty": [], "sequence_bias": {},
    "stop_strings": [], "watermarking_config": {}, "dola_layers": [],
}  # fmt: skip
TEXT_RULES: dict[str, Rule] = (
    _NOTES
    | _GENERATION
    | each(" ".join(_GREEDY), ignored("see generation_config.json"))
    | each(" ".join(_TEXT), OBEYED)
    | each("rope_theta rope_scaling rope_parameters", OBEYED)
    | each("tie_word_embeddings layer_types head_dim", OBEYED)
    | {"use_sliding_window": only(False, None, why="sliding-window attention")}
    | each("sliding_window max_window_layers", ignored("sliding windows are off"))
    | each("vision_token_id vision_end_token_id", ignored("tokens are looked up by name"))
)  # fmt: skip
CONFIG_RULES: dict[str, Rule] = (
    TEXT_RULES
    | each("text_config vision_config " + " ".join(_TOKENS), OBEYED)
    | {"tokenizer_class": only(*CLASSES, None, why="the architecture's tokenizer")}
    | each("quantization_config compression_config", OBEYED)
)
GENERATION_RULES: dict[str, Rule] = _NOTES | _GENERATION | each(" ".join(_GREEDY), OBEYED)
_FIXED = (
    ("in_channels", 3),
    ("patch_size", PATCH),
    ("spatial_merge_size", MERGE),
    ("temporal_patch_size", TEMPORAL_PATCH),
)


def vision_rules(kind: str) -> dict[str, Rule]:
    """What becomes of the keys of `vision_config`, by the model's type."""
    return (
        _NOTES
        | each(" ".join(_VISION[kind]), OBEYED)
        | {key: only(value, why="the pixels' cut into patches") for key, value in _FIXED}
        | each("in_chans spatial_patch_size", ignored("transformers reads in_channels, patch_size"))
        | {"rope_parameters": only(*_VISION_ROPE, None, why="the vision tower's rotary embedding")}
    )


def read_config(path: Path) -> dict[str, Any]:
    """config.json with the settings that decide a vector, in one form.

    Returns:
        model_type, tie_word_embeddings, image_token_id, video_token_id, vision_start_token_id,
        text_config (with `rope_theta` and `rope_scaling`) and vision_config, defaults filled in,
        keys that are not known as they stand.

    Raises:
        CheckpointError: another architecture, a quantised checkpoint, or a setting that the engines
            do not follow; it names key and value.
    """
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{path.parent} is a {kind!r} model (model_type in {path.name})",
            fix=f"use a checkpoint of type {' or '.join(ARCHITECTURES)}",
        )
    _refuse_quantised(path, raw)
    nested, vision = _object(path, raw, "text_config"), _object(path, raw, "vision_config") or {}
    check_keys(path.name, raw, CONFIG_RULES)
    if nested is not None:
        _refuse_quantised(path, nested)
        check_keys(f"{path.name}: text_config", nested, TEXT_RULES)
    check_keys(f"{path.name}: vision_config", vision, vision_rules(kind))
    text = raw if nested is None else nested
    tied = bool(raw.get("tie_word_embeddings") or (nested or {}).get("tie_word_embeddings"))
    return {
        "model_type": kind,
        "tie_word_embeddings": tied,
        **{key: raw.get(key, default) for key, default in _TOKENS.items()},
        **_unknown(raw, CONFIG_RULES),
        "text_config": {
            **_unknown(nested or {}, TEXT_RULES), **_text(path, text), "tie_word_embeddings": tied,
        },
        "vision_config": {
            **_unknown(vision, vision_rules(kind)),
            **{key: vision.get(key, default) for key, default in _VISION[kind].items()},
        },
    }  # fmt: skip


def _text(path: Path, text: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: text.get(key, default) for key, default in _TEXT.items()}
    if found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = found["num_attention_heads"]
    numbers = [key for key in _TEXT if key not in ("hidden_act", "rms_norm_eps")]
    for key in numbers:
        if type(found[key]) is not int or found[key] < 1:
            raise CheckpointError(f"{path}: {key} is {found[key]!r}", fix="replace config.json")
    layers: object = text.get("layer_types")
    if layers is not None and any(kind != "full_attention" for kind in cast("list[str]", layers)):
        raise CheckpointError(
            f"{path}: layer_types is {layers!r}, and only 'full_attention' is supported",
            fix="use a checkpoint without sliding-window attention",
        )
    head_dim = found["hidden_size"] // found["num_attention_heads"]
    if text.get("head_dim") not in (None, head_dim):
        raise CheckpointError(
            f"{path}: head_dim is {text['head_dim']!r}, and hidden_size / num_attention_heads is "
            f"{head_dim}",
            fix="use a checkpoint where they agree, as Qwen2-VL's attention needs",
        )
    theta, scaling = _rope(path, text, head_dim)
    return found | {"rope_theta": theta, "rope_scaling": scaling}


def _rope(path: Path, text: Mapping[str, Any], head_dim: int) -> tuple[float, dict[str, Any]]:
    """Theta and the rotary parameters, `mrope` being a default type with sections."""
    given: object = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(given, dict):
        raise CheckpointError(
            f"{path} has neither rope_scaling nor rope_parameters with an mrope_section",
            fix="take config.json from the published checkpoint",
        )
    rope = dict(cast("dict[str, Any]", given))
    inner, outer = rope.pop("rope_theta", None), text.get("rope_theta")
    if inner and outer and inner != outer:  # 4.57 takes the one, 5.x the other
        raise CheckpointError(
            f"{path}: rope_theta is {outer!r}, and {inner!r} in the rotary parameters",
            fix="keep the one that the model was trained with",
        )
    theta: object = inner or outer or _THETA
    named = {rope.pop(key, None) for key in ("rope_type", "type")} - {None}
    named = {"default" if name == "mrope" else name for name in named} or {"default"}
    kind = named.pop() if len(named) == 1 else None  # else 5.x would take rope_type, 4.57 type
    sections: object = rope.get("mrope_section")
    if kind not in _ROPE_TYPES or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{path}: the rotary embedding is {given!r}, and only "
            f"{', '.join(_ROPE_TYPES)} over the whole head are supported",
            fix="use a checkpoint with one of these",
        )
    if not _is_sections(sections, head_dim // 2) or not isinstance(theta, (int, float)):
        raise CheckpointError(
            f"{path}: mrope_section {sections!r} with rope_theta {theta!r} does not fit heads of "
            f"{head_dim} numbers (hidden_size / num_attention_heads)",
            fix="take config.json from the published checkpoint",
        )
    return float(theta), {"rope_type": kind, **rope}


def _is_sections(sections: object, half: int) -> bool:
    if not isinstance(sections, list):
        return False
    numbers = cast("list[object]", sections)
    whole = [n for n in numbers if isinstance(n, int) and n > 0]
    return len(whole) == len(numbers) == 3 and sum(whole) == half


def read_generation(directory: Path) -> dict[str, Any]:
    """generation_config.json; answers are greedy, so its sampling settings have no part in them.

    Settings that would change a greedy answer in transformers (Qwen2.5-VL's repetition_penalty)
    are not followed; a warning names them.
    """
    path = directory / "generation_config.json"
    if not path.is_file():  # transformers 4.x then takes them from config.json
        path = directory / "config.json"
        found = {k: v for k, v in optional_json(path).items() if k in _GREEDY}
    else:
        found = read_json(path)
    check_keys(path.name, found, GENERATION_RULES)
    passed = {k: v for k, v in found.items() if _is_effective(k, v)}
    if passed:
        named = ", ".join(f"{key} ({value!r})" for key, value in passed.items())
        warnings.warn(
            f"{path}: gen answers are decoded greedily, without {named}; transformers' generate() "
            "would apply it",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def _is_effective(key: str, value: object) -> bool:
    return key in _GREEDY and bool(value) and value != _GREEDY[key]


def _refuse_quantised(path: Path, config: Mapping[str, Any]) -> None:
    given: object = config.get("quantization_config") or config.get("compression_config")
    if not given:
        return
    method: object = None
    if isinstance(given, dict):
        method = cast("dict[str, Any]", given).get("quant_method")
    raise CheckpointError(
        f"{path.parent} is quantised (quantization_config, {method or 'no quant_method'})",
        fix="use the unquantised checkpoint it was made from; dtype='bfloat16' halves its memory",
    )


def _object(path: Path, config: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value: object = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key} is not a JSON object", fix="replace config.json")
    return cast("dict[str, Any] | None", value)


def _unknown(settings: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in rules}
