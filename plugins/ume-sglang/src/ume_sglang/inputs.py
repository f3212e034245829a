"""A prompt as SGLang's engine takes it: our token ids, pixels and positions, as they are.

SGLang's own preparation (tokenizer, resizing, placeholders, positions) is not asked. What is said
of its insides was read in the sources of 0.5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypedDict

import numpy as np
import torch

from ume_qwen.patches import VisualInput
from ume_qwen.render import RenderedPrompt

_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


class Inputs(TypedDict):
    """Arguments of `sglang.Engine.async_generate` that make up a prompt.

    Attributes:
        input_ids: tokens, placeholders expanded.
        image_data: all pixels, also of videos; None without media.
        mm_hashes: 16 hexadecimal digits for each of SGLang's media items.
    """

    input_ids: list[int]
    image_data: list[Any] | None
    mm_hashes: list[str] | None


def engine_input(prompt: RenderedPrompt, more: Sequence[int]) -> Inputs:
    """A prompt and tokens after it."""
    ids = [*prompt.ids.tolist(), *more]
    if not prompt.media:
        return Inputs(input_ids=ids, image_data=None, mm_hashes=None)
    # Positions go on behind the largest so far, as for any text.
    behind = int(prompt.positions.max()) + 1
    positions = np.concatenate(
        [prompt.positions, np.tile(np.arange(behind, behind + len(more)), (3, 1))], axis=1
    )
    data: dict[str, Any] = {
        "format": "processor_output",
        "mrope_positions": torch.from_numpy(np.ascontiguousarray(positions)),
        "mrope_position_delta": torch.tensor([[int(positions.max()) + 1 - len(ids)]]),
        # Of no use, and of another length than the prompt, so that SGLang puts the values of
        # `mm_hashes` into the prompt's placeholders; its own are made before it reads those.
        "padded_input_ids": [],
    }
    hashes: list[str] = []
    for kind, pixels in _PIXELS.items():
        media = [visual for visual in prompt.media if visual.kind == kind]
        if media:
            data[pixels] = torch.from_numpy(np.concatenate([v.patches for v in media]))
            data[f"{kind}_grid_thw"] = torch.tensor([v.grid for v in media])
            hashes += _hashes(kind, media)
    return Inputs(input_ids=ids, image_data=[data], mm_hashes=hashes)


def _hashes(kind: str, media: list[VisualInput]) -> list[str]:
    """Digests that tell equal pixels of another grid apart, which SGLang's own do not.

    It would take the states of one picture for the other's, 56 x 112 and 112 x 56 of one colour,
    say. Its items are single images; several videos are one, unless all have one time step.
    """
    digests = [visual.digest for visual in media]
    if kind == "video" and any(visual.grid[0] != 1 for visual in media):
        combined = digests[0]
        for digest in digests[1:]:
            combined = blake2b(combined + digest, digest_size=16).digest()
        digests = [combined]
    return [digest[:8].hex() for digest in digests]
