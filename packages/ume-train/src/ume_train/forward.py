"""The training pass over rendered prompts, through transformers' own modules.

Prompts of like lengths run together, padded on the right and causal without a mask, so that no
position ever sees padding; their positions are explicit. Training needs every state and gradients
through them; inference packs instead (`ume_torch.decoder`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ume_qwen.render import RenderedPrompt
from ume_torch.vision import encode_visuals

# The longest prompt of a group against its shortest: less padding against more calls.
_SPREAD = 1.25


def prompt_states(model: Any, prompts: Sequence[RenderedPrompt], pad: int) -> Tensor:
    """Final-norm states (tokens of all prompts, hidden), prompt after prompt, no padding."""
    visuals = _visuals(model, prompts)
    found: dict[int, Tensor] = {}
    for group in _alike([len(p.ids) for p in prompts]):
        states = _padded(model, [prompts[n] for n in group], pad, visuals)
        found |= {n: states[row, : len(prompts[n].ids)] for row, n in enumerate(group)}
    return torch.cat([found[n] for n in range(len(prompts))])


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of the prompts, in groups of like lengths."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    group: list[int] = []
    for number in order:
        if group and lengths[number] > _SPREAD * lengths[group[0]]:
            yield group
            group = []
        group.append(number)
    yield group


def _visuals(model: Any, prompts: Sequence[RenderedPrompt]) -> dict[bytes, Tensor]:
    """States by digest. One pass per distinct picture: the blank image repeats in every text."""
    distinct = {m.digest: m for p in prompts for m in p.media}
    states = encode_visuals(model.model.visual, list(distinct.values())) if distinct else []
    return dict(zip(distinct, states, strict=True))


def _padded(
    model: Any, prompts: Sequence[RenderedPrompt], pad: int, visuals: dict[bytes, Tensor]
) -> Tensor:
    """States (prompts, tokens of the longest, hidden)."""
    rows, width = len(prompts), max(len(p.ids) for p in prompts)
    ids = np.full((rows, width), pad, dtype=np.int64)
    positions = np.zeros((3, rows, width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        ids[row, :length] = prompt.ids
        positions[:, row, :length] = prompt.positions
    token_ids = torch.from_numpy(ids).to(model.device)
    embeds: Tensor = model.get_input_embeddings()(token_ids)
    media = [m for p in prompts for m in p.media]
    if media:
        visual = torch.cat([visuals[m.digest] for m in media]).to(embeds.dtype)
        config = model.config
        places = (token_ids == config.image_token_id) | (token_ids == config.video_token_id)
        embeds = embeds.masked_scatter(places[..., None], visual)
    out = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=torch.from_numpy(positions).to(model.device),
        attention_mask=None,
        use_cache=False,
    )
    return out.last_hidden_state
