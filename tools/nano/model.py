"""ume-nano's architecture: Qwen2-VL at about 5 M parameters, in the published file layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ume_core.conventions import CONVENTIONS_FILE

SIDE = 84  # pixels; 6 x 6 patches, 9 visual tokens
MIN_PIXELS, MAX_PIXELS = 56 * 56, 84 * 84


def create(directory: Path, seed: int = 0) -> None:
    """Write config, preprocessor settings and seeded random weights beside the tokenizer."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokens = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    ids = {v["content"]: int(k) for k, v in tokens["added_tokens_decoder"].items()}
    # The flat form: it loads in transformers 4.57 and in 5.x; the nested one only in 5.x.
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": max(ids.values()) + 1,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        # A quarter, three eighths, three eighths of half the head, as Qwen2-VL's [16, 24, 24].
        "rope_scaling": {"type": "mrope", "mrope_section": [6, 9, 9]},
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 5,
            "embed_dim": 160,
            "num_heads": 4,
            "mlp_ratio": 4,
            "hidden_size": 192,
            "in_channels": 3,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
    model.save_pretrained(directory)
    _write(directory / "config.json", config)
    _write(
        directory / "generation_config.json",
        {"eos_token_id": [ids["<|im_end|>"]], "pad_token_id": ids["<|endoftext|>"]},
    )
    _write(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "do_resize": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    # What the first four runs train with; the fifth's `--recommended` leaves the file out.
    _write(
        directory / CONVENTIONS_FILE,
        {
            "request": "lines",
            "text_only": "blank",
            "media_order": "media-first",
            "frame_lists": "utils-0.0.14",
            "image_pixels": None,
            "aligned": False,
        },
    )


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
