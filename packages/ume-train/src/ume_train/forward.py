"""The training pass over rendered prompts: padded, through transformers' own modules.

Prompts are padded on the right and run causally without a mask, so that no position ever sees
padding; their positions are explicit. Training needs every state and gradients through
them; inference packs instead (`ume_torch.decoder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ume_core.qwen.render import Rendered
from ume_torch.vision import encode_visuals


@dataclass(frozen=True)
class Batch:
    """Prompts on the device, right-padded.

    Attributes:
        embeds: (rows, tokens, hidden) with visual states in place.
        positions: (3, rows, tokens) M-RoPE.
        disc_index: (rows,).
    """

    embeds: Tensor
    positions: Tensor
    disc_index: Tensor


def build_batch(model: Any, prompts: Sequence[Rendered], pad: int) -> Batch:
    """Token and visual embeddings of prompts, padded to the longest."""
    device = model.device
    rows, width = len(prompts), max(len(p.ids) for p in prompts)
    ids = np.full((rows, width), pad, dtype=np.int64)
    positions = np.zeros((3, rows, width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        ids[row, :length] = prompt.ids
        positions[:, row, :length] = prompt.positions
    token_ids = torch.from_numpy(ids).to(device)
    embeds: Tensor = model.get_input_embeddings()(token_ids)
    embeds = _insert_visuals(model, prompts, token_ids, embeds)
    return Batch(
        embeds=embeds,
        positions=torch.from_numpy(positions).to(device),
        disc_index=torch.tensor([p.disc_index for p in prompts], device=device),
    )


def _insert_visuals(
    model: Any, prompts: Sequence[Rendered], token_ids: Tensor, embeds: Tensor
) -> Tensor:
    media = [m for p in prompts for m in p.media]
    if not media:
        return embeds
    # One pass per distinct picture: the blank image of text-only items repeats in every row.
    distinct = {m.digest: m for m in media}
    states = encode_visuals(model.model.visual, list(distinct.values()))
    by_digest = dict(zip(distinct, states, strict=True))
    visual = torch.cat([by_digest[m.digest] for m in media]).to(embeds.dtype)
    config = model.config
    places = (token_ids == config.image_token_id) | (token_ids == config.video_token_id)
    return embeds.masked_scatter(places[..., None], visual)


def run_text(model: Any, batch: Batch) -> Tensor:
    """Final-norm states (rows, tokens, hidden) of a causal pass."""
    out = model.model.language_model(
        inputs_embeds=batch.embeds,
        position_ids=batch.positions,
        attention_mask=None,
        use_cache=False,
    )
    return out.last_hidden_state
