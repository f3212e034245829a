"""The two graphs as torch modules over transformers' own weights.

Never the model's own forward: it decides shapes in Python, which tracing would freeze. What the
graphs leave out: the LM head, everything behind `<disc_emb>`, and in the last layer all queries but
that token's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VisionEncoder(nn.Module):
    """Images of one size: pixel_values (images, patches, 1176) -> (images, tokens, hidden)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.model.visual
        self.windowed = model.config.model_type == "qwen2_5_vl"
        self.full = set(getattr(self.tower.config, "fullatt_block_indexes", ()))

    def forward(
        self, pixel_values: Tensor, cos: Tensor, sin: Tensor, window_bias: Tensor | None = None
    ) -> Tensor:
        """See `ume_core.qwen.graphs.VisionLayout.arrays` for the inputs."""
        tower = self.tower
        weight = tower.patch_embed.proj.weight.flatten(1)
        # A stride as large as the kernel makes the published Conv3d a matrix product.
        x = F.linear(pixel_values.to(weight.dtype), weight)
        for number, block in enumerate(tower.blocks):
            bias = window_bias if self.windowed and number not in self.full else None
            x = x + self._attend(block.attn, block.norm1(x), cos, sin, bias)
            x = x + self._mlp(block.mlp, block.norm2(x))
        merger = tower.merger
        folded = merger.ln_q(x).unflatten(1, (-1, 4)).flatten(2)
        return merger.mlp(folded).float()

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:
        if self.windowed:
            return mlp(x)
        # Quick GELU's 1.702 would be 1.703 as a bfloat16 constant of the graph.
        inner = mlp.fc1(x)
        return mlp.fc2(mlp.act(inner.float()).to(inner.dtype))

    def _attend(self, attn: Any, x: Tensor, cos: Tensor, sin: Tensor, bias: Any) -> Tensor:
        heads = self.tower.config.num_heads
        qkv = attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        mixed = _attention(_rotate(q.float(), cos, sin).to(v.dtype),
                           _rotate(k.float(), cos, sin).to(v.dtype), v, bias)  # fmt: skip
        return attn.proj(mixed.transpose(1, 2).flatten(2))


class TextEncoder(nn.Module):
    """Prompts packed end to end to unit vectors (rows, hidden)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        text = model.model.language_model
        self.text = text
        rope = text.config.rope_scaling
        self.sections: list[int] = list(rope["mrope_section"])
        self.scale = float(text.rotary_emb.attention_scaling)
        self.register_buffer("frequencies", text.rotary_emb.inv_freq.float(), persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        place: Tensor,
        tree_start: Tensor,
        tree_end: Tensor,
        visual_embeds: Tensor,
        visual_index: Tensor,
        embed_index: Tensor,
    ) -> Tensor:
        """See `ume_core.qwen.graphs.text_arrays` for the inputs."""
        text = self.text
        x = text.embed_tokens(input_ids)
        visual = F.embedding(visual_index, visual_embeds).to(x.dtype)
        x = torch.where((visual_index > 0).unsqueeze(-1), visual, x)
        cos, sin = self._rotations(position_ids, x.dtype)
        bias = _bias(
            (place[None, :] <= place[:, None])
            & (tree_start[None, :] <= tree_start[:, None])
            & (tree_start[:, None] < tree_end[None, :]),
            x.dtype,
        )
        for number, layer in enumerate(text.layers):
            attn = layer.self_attn
            normed = layer.input_layernorm(x)
            k = _rotate(self._split(attn.k_proj(normed), attn), cos, sin)
            v = self._split(attn.v_proj(normed), attn)
            if number == len(text.layers) - 1:  # the needed tokens' queries alone
                normed, x = normed[embed_index], x[embed_index]
                cos, sin, bias = cos[embed_index], sin[embed_index], bias[embed_index]
            q = _rotate(self._split(attn.q_proj(normed), attn), cos, sin)
            x = x + attn.o_proj(_grouped(q, k, v, bias))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        state = text.norm(x).float()
        return state / state.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def _split(self, projected: Tensor, attn: Any) -> Tensor:
        """(tokens, heads * dim) -> (heads, tokens, dim)."""
        return projected.unflatten(-1, (-1, attn.head_dim)).transpose(0, 1)

    def _rotations(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos, sin (tokens, dim): sections of frequencies turn by t, h and w."""
        parts: list[Tensor] = []
        start = 0
        for axis, width in enumerate(self.sections):
            section = self.frequencies[start : start + width]  # type: ignore[index]
            parts.append(position_ids[axis].unsqueeze(-1).float() * section)
            start += width
        angles = torch.cat([*parts, *parts], dim=-1)
        return (angles.cos() * self.scale).to(dtype), (angles.sin() * self.scale).to(dtype)


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.full_like(zero, -3e4))


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.float()
    return scores.softmax(-1).to(v.dtype) @ v


def _grouped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Grouped-query attention without copies of the keys; (rows, heads * dim)."""
    heads, rows = k.shape[0], q.shape[1]
    grouped = q.unflatten(0, (heads, -1))
    # A key head's queries as rows of one product.
    scores = (grouped.flatten(1, 2) @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    weights = (scores.unflatten(1, (-1, rows)) + bias.float()).softmax(-1).to(v.dtype)
    mixed = (weights.flatten(1, 2) @ v).unflatten(1, (-1, rows)).flatten(0, 1)
    return mixed.transpose(0, 1).flatten(1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
