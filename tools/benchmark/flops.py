"""Floating point operations and bytes, counted from shapes, and the machine's own ceilings."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F

from ume_qwen.render import RenderedPrompt


def disc_flops(config: Any, prompts: list[RenderedPrompt]) -> float:
    """Multiply-adds x 2 that the published recipe needs for disc, without padding.

    Linear layers of text and vision and both attentions; no vocabulary logits. What sharing and
    cutting save is not subtracted: an engine that skips work shows as a higher rate.
    """
    text, vision = config.text_config, config.vision_config
    h, i = text.hidden_size, text.intermediate_size
    head = h // text.num_attention_heads
    kv = head * text.num_key_value_heads
    per_token = 2 * text.num_hidden_layers * (2 * h * h + 2 * h * kv + 3 * h * i)
    e = vision.embed_dim
    per_patch = 2 * (vision.depth * (4 * e * e + 2 * vision.mlp_ratio * e * e) + 1176 * e)
    merger = 2 * ((4 * e) ** 2 + 4 * e * h) / 4
    total = 0.0
    for prompt in prompts:
        n = len(prompt.ids)
        total += n * per_token + 2 * text.num_hidden_layers * n * n * h
        for visual in prompt.media:
            t, rows, columns = visual.grid
            patches = rows * columns
            total += t * patches * (per_patch + merger)
            total += 4 * vision.depth * t * patches * patches * e
    return total


def weight_bytes(config: Any, element: int) -> int:
    """Bytes one decoding step must read: text layers and LM head."""
    text = config.text_config
    h, i = text.hidden_size, text.intermediate_size
    kv = h // text.num_attention_heads * text.num_key_value_heads
    layers = text.num_hidden_layers * (2 * h * h + 2 * h * kv + 3 * h * i)
    return element * (layers + text.vocab_size * h)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Best measured FLOP/s of a 2048 x 1536 x 8960 product."""
    x = torch.randn(2048, 1536, device=device, dtype=dtype)
    w = torch.randn(8960, 1536, device=device, dtype=dtype)
    return 2 * 2048 * 1536 * 8960 / _best(lambda: F.linear(x, w), device)


def read_rate(device: str) -> float:
    """Best measured bytes/s of a sum over 256 MB."""
    x = torch.randn(64_000_000, device=device)
    return x.numel() * 4 / _best(x.sum, device)


def _best(work: Any, device: str) -> float:
    times: list[float] = []
    for _ in range(6):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
