"""A prompt as vLLM's engine takes it: our token ids and our pixels, as they are.

vLLM's own preparation (tokenizer, resizing, placeholders) is not asked. Positions are vLLM's: it
computes them from ids and grids by the rule that `ume_qwen.positions` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.inputs import mm_input, tokens_input  # pyright: ignore[reportMissingImports]
from vllm.multimodal.inputs import (  # pyright: ignore[reportMissingImports]
    MultiModalFieldConfig,
    MultiModalKwargsItems,
    PlaceholderRange,
)

from ume_qwen.render import RenderedPrompt

_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


def engine_input(prompt: RenderedPrompt, more: Sequence[int]) -> Any:
    """`vllm.inputs.EngineInput` of a prompt and tokens after it."""
    ids = [*prompt.ids.tolist(), *more]
    if not prompt.media:
        return tokens_input(ids, cache_salt=prompt.scope or None)
    tensors: dict[str, torch.Tensor] = {}
    fields: dict[str, Any] = {}
    hashes: dict[str, list[str]] = {}
    places: dict[str, list[Any]] = {}
    for kind, pixels in _PIXELS.items():
        pairs = zip(prompt.media, prompt.media_starts, strict=True)
        found = [(visual, start) for visual, start in pairs if visual.kind == kind]
        if not found:
            continue
        media = [visual for visual, _ in found]
        grids = torch.tensor([visual.grid for visual in media])
        tensors[pixels] = torch.from_numpy(np.concatenate([visual.patches for visual in media]))
        fields[pixels] = MultiModalFieldConfig.flat_from_sizes(kind, grids.prod(-1))
        tensors[f"{kind}_grid_thw"] = grids
        fields[f"{kind}_grid_thw"] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
        if any(visual.seconds_per_grid for visual in media):
            seconds = [visual.seconds_per_grid for visual in media]
            tensors["second_per_grid_ts"] = torch.tensor(seconds, dtype=torch.float64)
            fields["second_per_grid_ts"] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
        # Digests cover pixels, kind and grid: equal ones may share states and prefixes.
        hashes[kind] = [visual.digest.hex() for visual in media]
        places[kind] = [PlaceholderRange(offset=s, length=v.tokens) for v, s in found]
    items: Any = MultiModalKwargsItems.from_hf_inputs(tensors, fields)
    return mm_input(ids, items, hashes, places, cache_salt=prompt.scope or None)
