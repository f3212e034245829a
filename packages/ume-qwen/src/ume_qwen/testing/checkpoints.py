"""Seeded random checkpoints of both architectures in the published layout.

They carry the 2B's true token ids (`<gen_emb>` 151657, `<disc_emb>` 151658) and `use_cache: false`,
the 7B's sampling generation_config, Qwen2-VL's chat template and pixel limits; only the layers are
small. `gen_bias` makes `<gen_emb>` likelier, so that greedy rows end at different lengths.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

if TYPE_CHECKING:
    import torch

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# added_tokens.json of zhibinlan/UME-R1-2B: the first 16 ids after the 151,643 BPE tokens.
ADDED = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646, "<|object_ref_end|>": 151647, "<|box_start|>": 151648,
    "<|box_end|>": 151649, "<|quad_start|>": 151650, "<|quad_end|>": 151651,
    "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655, "<|video_pad|>": 151656, "<gen_emb>": 151657, "<disc_emb>": 151658,
}  # fmt: skip
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Sizes besides the tests' own: (text config, vision config); 2b and 7b as published.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": ({}, {}),
    # Attention heads of 32, the least that vLLM's kernels on a CPU take.
    "heads32": (
        {
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        },
        {},
    ),
    "small": (
        {
            "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
        },
        {"depth": 6, "num_heads": 8, "embed_dim": 384, "hidden_size": 512},
    ),
    "2b": (
        {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
        {"depth": 32, "num_heads": 16, "embed_dim": 1280, "hidden_size": 1536},
    ),
    "7b": (
        {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
            "vocab_size": 152064,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
        {"depth": 32, "num_heads": 16, "embed_dim": 1280, "hidden_size": 3584},
    ),
}  # fmt: skip


def make_checkpoint(
    directory: Path,
    kind: str,
    *,
    gen_bias: float = 0.0,
    seed: int = 0,
    size: str = "tiny",
    dtype: torch.dtype | None = None,
    words: Path | None = None,
    vocabulary_of: Path | None = None,
    tied: bool = False,
    device: str = "cpu",
) -> Path:
    """Write a checkpoint of `qwen2_vl` or `qwen2_5_vl`, the latter in sizes `tiny` and `heads32`.

    `words` is a tokenizer.json whose vocabulary and merges are taken, so that text has about as
    many tokens as words; without it every byte is a token. `vocabulary_of` takes a checkpoint's
    tokenizer as it is: of ume-nano, 4 MB of weights instead of 80, but not the published ids.
    Weights are drawn on `device`, whose random numbers are its own.
    """
    import torch
    import transformers

    dtype = dtype or torch.float32
    directory.mkdir(parents=True, exist_ok=True)
    config = published_config(kind, size) | ({"tie_word_embeddings": True} if tied else {})
    if vocabulary_of is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(vocabulary_of / name, directory / name)
        _write(directory / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
        published = json.loads((vocabulary_of / "config.json").read_text("utf-8"))
        config |= {k: v for k, v in published.items() if k.endswith("_token_id")}
        config["vocab_size"] = published["vocab_size"]
    else:
        _tokenizer(directory, words)
    config_class, model_class = {
        "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
        "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    }[kind]
    torch.manual_seed(seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = getattr(transformers, config_class)(**deepcopy(config))
        with torch.device(device):
            model = getattr(transformers, model_class)(made)
    finally:
        torch.set_default_dtype(usual)
    # Larger than a fresh model's weights: attention and positions must matter to the result.
    scale = 0.08 * (64 / config["hidden_size"]) ** 0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, scale if "embed" not in name else 0.5)
            elif name.endswith("bias"):
                weight.normal_(0, 0.05)
        if gen_bias:
            tokens = json.loads((directory / "tokenizer.json").read_text("utf-8"))["added_tokens"]
            (gen,) = (t["id"] for t in tokens if t["content"] == "<gen_emb>")
            model.lm_head.weight[gen] *= gen_bias
    _save(model, directory / "model.safetensors", dtype)
    _write(directory / "config.json", config)
    # The 7B's: sampling unless told otherwise.
    _write(
        directory / "generation_config.json",
        {
            "do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001,
            "eos_token_id": [config["eos_token_id"], config["bos_token_id"]],
            "pad_token_id": config["bos_token_id"], "bos_token_id": config["bos_token_id"],
        },
    )  # fmt: skip
    name = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}[kind]
    _write(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": name,
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14,
            "temporal_patch_size": 2, "merge_size": 2, "do_resize": True, "do_rescale": True,
            "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
            "size": {"shortest_edge": 3136, "longest_edge": 12845056},
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )  # fmt: skip
    return directory


def _save(model: Any, path: Path, dtype: torch.dtype) -> None:
    """Write weights under the published key names; a tied LM head is left out, as published."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        key = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        tensors[key] = value.detach().to(dtype).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def published_config(kind: str, size: str) -> dict[str, Any]:
    """config.json of an architecture in one of `SIZES`, as published."""
    config, (text, vision) = _config(kind), SIZES[size]
    return config | text | {"vision_config": config["vision_config"] | vision}


def _config(kind: str) -> dict[str, Any]:
    vision: dict[str, Any] = {
        "model_type": kind, "depth": 3, "num_heads": 4, "in_channels": 3, "in_chans": 3,
        "patch_size": 14, "spatial_patch_size": 14, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "hidden_act": "quick_gelu",
    }  # fmt: skip
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 4}
    else:
        vision |= {
            "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64,
            "hidden_act": "silu", "fullatt_block_indexes": [1], "window_size": 56,
            "tokens_per_second": 2,
        }  # fmt: skip
    return {
        "architectures": [
            "Qwen2VLForConditionalGeneration"
            if kind == "qwen2_vl"
            else "Qwen2_5_VLForConditionalGeneration"
        ],
        "model_type": kind, "vocab_size": 151936, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False, "use_cache": False, "use_sliding_window": False,
        "sliding_window": 32768, "max_window_layers": 3, "attention_dropout": 0.0,
        "torch_dtype": "float32", "bos_token_id": 151643, "eos_token_id": 151645,
        "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
        "vision_end_token_id": 151653, "vision_token_id": 151654, "vision_config": vision,
    }  # fmt: skip


def _tokenizer(directory: Path, words: Path | None) -> None:
    """Bytes plus fillers up to 151,643 entries, so that the added tokens get their true ids."""
    vocabulary = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    if words is not None:
        known = json.loads(words.read_text("utf-8"))["model"]
        merges = [tuple(m) for m in known["merges"]]
        vocabulary |= {
            token: len(vocabulary) + number
            for number, token in enumerate(t for t in known["vocab"] if t not in vocabulary)
        }
    for i in range(len(vocabulary), 151643):
        vocabulary[f"filler {i}"] = i  # a space never occurs in byte-level tokens
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(_PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED])
    assert all(tokenizer.token_to_id(t) == i for t, i in ADDED.items())
    tokenizer.save(str(directory / "tokenizer.json"))
    _write(directory / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges), ""]
    (directory / "merges.txt").write_text("\n".join(lines), "utf-8")
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None,
            "model_max_length": 32768, "padding_side": "left",
            "added_tokens_decoder": {
                str(i): {
                    "content": t, "lstrip": False, "rstrip": False, "normalized": False,
                    "single_word": False, "special": True,
                }
                for t, i in ADDED.items()
            },
            "additional_special_tokens": [t for t in ADDED if t != "<|endoftext|>"],
        },
    )  # fmt: skip
    _write(directory / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), "utf-8")
