"""The language model over packs, and one token at a time over running rows.

The same maths as transformers' `Qwen2VLTextModel` (Qwen2-VL and Qwen2.5-VL share it), on its own
weights, without what an embedding does not need: no padding, no logits, no states but those asked
for, and in the last layer no queries but theirs. Nothing is written to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.errors import CheckpointError
from ume_qwen.pack import Pack
from ume_torch.attention import Varlen
from ume_torch.attention_plan import AttentionPlan
from ume_torch.kv import KeyValues, LayerKV


@dataclass(frozen=True)
class Prefilled:
    """What a pack's pass leaves.

    Attributes:
        states: (asked, hidden), final norm applied.
        prefixes: keys and values of the prefixes this pass computed.
        rows: per prompt, keys and values of all its tokens; empty unless asked for.
    """

    states: Tensor
    prefixes: dict[bytes, LayerKV]
    rows: list[LayerKV]


class Decoder:
    """transformers' text model, driven by us. Thread-safe."""

    def __init__(self, model: Any, varlen: Varlen | None) -> None:
        text = model.model.language_model
        config = text.config
        self.layers: list[Any] = list(text.layers)
        self.norm = text.norm
        self.embed = model.get_input_embeddings()
        self.varlen = varlen
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = self.layers[0].self_attn.head_dim
        if getattr(config, "use_sliding_window", False):
            raise CheckpointError(
                "the checkpoint uses sliding-window attention, which this engine does not",
                fix="use a published Qwen2-VL or Qwen2.5-VL checkpoint",
            )
        self._rotary = text.rotary_emb
        # transformers 4.57 keeps the sections in rope_scaling, 5.x in rope_parameters.
        rope = getattr(config, "rope_parameters", None) or config.rope_scaling
        sections: list[int] = rope["mrope_section"]
        # Which of (temporal, height, width) turns each frequency: arXiv 2409.12191, section 2.1.
        axes = torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
        self._axes = axes.to(model.device)

    def prefill(
        self,
        pack: Pack,
        embeds: Tensor,
        asked: Sequence[int],
        prefixes: dict[bytes, LayerKV],
        *,
        keep: bool,
    ) -> Prefilled:
        """One pass over a pack.

        Args:
            embeds: (tokens, hidden), visual states in place.
            asked: places in the pack whose final states are wanted.
            prefixes: keys and values of the prefixes that the pack does not compute.
            keep: whether to return every prompt's keys and values.
        """
        device = embeds.device
        places = torch.tensor(list(asked), device=device)
        cos, sin = self._angles(torch.from_numpy(pack.positions()).to(device), embeds.dtype)
        plan = AttentionPlan(pack, prefixes, device, self.varlen)
        x = embeds
        new_prefixes: dict[bytes, LayerKV] = {
            n.prefix: [] for n in pack.computed if n.prefix is not None
        }
        rows: list[LayerKV] = [[] for _ in pack.prompts] if keep else []
        for number, layer in enumerate(self.layers):
            attn, last = layer.self_attn, number == len(self.layers) - 1
            normed = layer.input_layernorm(x)
            k = _rotate(attn.k_proj(normed).view(-1, self.kv_heads, self.head_dim), cos, sin)
            v = attn.v_proj(normed).view(-1, self.kv_heads, self.head_dim)
            for node in pack.computed:
                if node.prefix is not None:
                    own = slice(node.offset, node.offset + len(node))
                    new_prefixes[node.prefix].append((k[own].clone(), v[own].clone()))
            for row, kv in enumerate(rows):
                kv.append(plan.chain_kv(pack.last[row], k, v, number))
            if last:
                normed, x = normed[places], x[places]
                cos, sin = cos[places], sin[places]
            q = _rotate(attn.q_proj(normed).view(-1, self.heads, self.head_dim), cos, sin)
            if last:
                mixed = plan.attend_asked(q, k, v, asked, number)
            else:
                mixed = plan.attend(q, k, v, number)
            x = x + attn.o_proj(mixed.flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return Prefilled(self.norm(x), new_prefixes, rows)

    def step(self, feed: Tensor, cache: KeyValues, width: int) -> Tensor:
        """One token of every running row; returns (rows, hidden), final norm applied.

        Args:
            feed: (3, rows) int64: the tokens' ids, their positions, and how many tokens the row
                has with this one. On the device, so that a graph can be replayed on other values.
            cache: has room for this token, and takes its keys and values.
            width: tokens of the cache to look at, those beyond a row's own masked.
        """
        ids, positions, lengths = feed
        x: Tensor = self.embed(ids)
        cos, sin = self._angles(positions.expand(3, -1), x.dtype)
        rows = torch.arange(len(ids), device=x.device)
        mask = (torch.arange(width, device=x.device) < lengths[:, None])[:, None, None]
        for number, layer in enumerate(self.layers):
            attn = layer.self_attn
            normed = layer.input_layernorm(x)
            q = _rotate(attn.q_proj(normed).view(-1, self.heads, self.head_dim), cos, sin)
            k = _rotate(attn.k_proj(normed).view(-1, self.kv_heads, self.head_dim), cos, sin)
            v = attn.v_proj(normed).view(-1, self.kv_heads, self.head_dim)
            keys, values = cache.layer(number)
            keys[rows, :, lengths - 1] = k
            values[rows, :, lengths - 1] = v
            keys, values = (t[: len(ids), :, :width] for t in (keys, values))
            # Query heads of one KV head are queries of one attention: no copy of keys is made.
            grouped = q.view(-1, self.kv_heads, self.heads // self.kv_heads, self.head_dim)
            mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
            x = x + attn.o_proj(mixed.flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.norm(x)

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos, sin (tokens, 1, head dim) of positions (3, tokens), computed in float32."""
        frequencies = self._rotary.inv_freq.to(positions.device, torch.float32)
        angles = positions[self._axes].T.float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        scale: float = self._rotary.attention_scaling
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
