"""The two graphs as torch modules over transformers' own weights.

Never the model's own forward: it decides shapes in Python, which tracing would freeze. What the
graphs leave out: the LM head, everything behind `<disc_emb>`, and in the last layer all queries but
that token's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ume_qwen.exported.inputs import VisionLayout
from ume_qwen.render import RenderedPrompt


@dataclass(frozen=True)
class PrefixKV:
    """Of a prefix, rotated, float32: both (layers, heads, tokens, dim)."""

    keys: Tensor
    values: Tensor


class VisionEncoder(nn.Module):
    """Images of one size: pixel_values (images, patches, 1176) -> (images, tokens, hidden).

    Patches of all images are rows of one matrix but for the attention: a product of two matrices
    takes its bias along, one of three axes does not.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.model.visual
        self.inputs = self.tower.patch_embed.proj.weight[0].numel()
        self.windowed = model.config.model_type == "qwen2_5_vl"
        self.full = set(getattr(self.tower.config, "fullatt_block_indexes", ()))

    def forward(
        self, pixel_values: Tensor, cos: Tensor, sin: Tensor, window_bias: Tensor | None = None
    ) -> Tensor:
        """See `ume_qwen.exported.inputs.VisionLayout.arrays` for the inputs."""
        tower = self.tower
        images = pixel_values.shape[0]
        weight = tower.patch_embed.proj.weight.view(-1, self.inputs)
        # A stride as large as the kernel makes the published Conv3d a matrix product.
        x = F.linear(pixel_values.to(weight.dtype).view(-1, self.inputs), weight)
        scale = cos.shape[-1] ** -0.5
        turns = [torch.stack((t * scale, t), dim=1).unsqueeze(2) for t in (cos, sin)]
        for number, block in enumerate(tower.blocks):
            bias = window_bias if self.windowed and number not in self.full else None
            x = x + self._attend(block.attn, block.norm1(x), images, turns, bias)
            x = x + self._mlp(block.mlp, block.norm2(x))
        merger = tower.merger
        folded = merger.ln_q(x).view(-1, merger.mlp[0].in_features)
        return merger.mlp(folded).float().unflatten(0, (images, -1))

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:
        if self.windowed:
            return mlp(x)
        # Quick GELU's 1.702 would be 1.703 as a bfloat16 constant of the graph.
        inner = mlp.fc1(x)
        return mlp.fc2(mlp.act(inner.float()).to(inner.dtype))

    def _attend(
        self, attn: Any, x: Tensor, images: Any, turns: list[Tensor], bias: Tensor | None
    ) -> Tensor:
        """`turns`: cos, sin (patches, 2, 1, dim) of queries, scaled, and of keys."""
        heads, width = self.tower.config.num_heads, attn.qkv.in_features
        qkv = attn.qkv(x).reshape(images, -1, 3, heads, width // heads)
        turned = _rotate(qkv[:, :, :2].float(), *turns).to(x.dtype)
        q, k, v = (t.transpose(1, 2) for t in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))
        scores = (q @ k.transpose(-1, -2)).float()
        if bias is not None:
            scores = scores + bias.float()
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return attn.proj(mixed.transpose(1, 2).reshape(-1, width))


class TextEncoder(nn.Module):
    """Prompts packed end to end to unit vectors (rows, hidden)."""

    def __init__(self, model: Any, prefix: PrefixKV | None = None) -> None:
        """`prefix` is what prompts begin with that do not bring their own."""
        super().__init__()
        text = model.model.language_model
        self.text = text
        rope = text.config.rope_scaling
        self.sections: list[int] = list(rope["mrope_section"])
        self.scale = float(text.rotary_emb.attention_scaling)
        self.register_buffer("frequencies", text.rotary_emb.inv_freq.float(), persistent=False)
        self.prefix = prefix

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        prefix_tokens: Tensor,
        place: Tensor,
        tree_start: Tensor,
        tree_end: Tensor,
        visual_embeds: Tensor,
        visual_index: Tensor,
        embed_index: Tensor,
    ) -> Tensor:
        """See `ume_qwen.exported.inputs.text_arrays` for the inputs."""
        x = self.text.embed_tokens(input_ids)
        visual = F.embedding(visual_index, visual_embeds).to(x.dtype)
        x = torch.where((visual_index > 0).unsqueeze(-1), visual, x)
        turns = self.turns(position_ids, x.dtype)
        allowed = (
            (place[None, :] <= place[:, None])
            & (tree_start[None, :] <= tree_start[:, None])
            & (tree_start[:, None] < tree_end[None, :])
        )
        prefix = self.prefix
        if prefix is not None:
            numbers = torch.arange(prefix.keys.shape[2], device=x.device)
            allowed = torch.cat((numbers[None] < prefix_tokens[:, None], allowed), dim=1)
        bias = _bias(allowed, x.dtype)
        layers = self.text.layers
        for number, layer in enumerate(layers):
            # The last layer: the needed tokens' queries alone.
            asked = embed_index if number == len(layers) - 1 else None
            past = None if prefix is None else (prefix.keys[number], prefix.values[number])
            x, _, _ = self.block(layer, x, turns, bias, past, asked)
        state = self.text.norm(x).float()
        return state / state.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def block(
        self,
        layer: Any,
        x: Tensor,
        turns: list[Tensor],
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        asked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The states behind one layer, of all tokens or those asked for, and its keys and values.

        Args:
            turns: see there.
            bias: (tokens, keys), added to scores.
            past: float32 keys and values (heads, tokens, dim) before these tokens' own.
        """
        attn = layer.self_attn
        normed = layer.input_layernorm(x)
        k = _rotate(_split(attn.k_proj, normed, attn.head_dim), *turns[2:])
        v = _split(attn.v_proj, normed, attn.head_dim)
        if past is not None:
            # Joined in float32, so that the constants are exact where a bfloat16 graph is checked
            # in float32 (`ume_export.bfloat16`).
            k = torch.cat((past[0], k.float()), dim=1).to(k.dtype)
            v = torch.cat((past[1], v.float()), dim=1).to(v.dtype)
        turns = turns[:2]
        if asked is not None:
            normed, x, bias = normed[asked], x[asked], bias[asked]
            turns = [t[asked] for t in turns]
        q = _rotate(_split(attn.q_proj, normed, attn.head_dim), *turns)
        # A key head's queries are rows of one product: keys are not copied.
        dim, width, keys = attn.head_dim, attn.q_proj.out_features, bias.shape[1]
        groups = attn.k_proj.out_features // dim
        scores = (q.reshape(groups, -1, dim) @ k.transpose(1, 2)).float()
        scores = scores.view(groups, width // dim // groups, -1, keys) + bias.float()
        weights = scores.softmax(-1).to(v.dtype).view(groups, -1, keys)
        mixed = (weights @ v).view(width // dim, -1, dim)
        x = x + attn.o_proj(mixed.transpose(0, 1).reshape(-1, width))
        return x + layer.mlp(layer.post_attention_layernorm(x)), k, v

    def turns(self, position_ids: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """cos, sin of queries, scaled, and of keys, all (tokens, dim).

        Sections of frequencies turn by t, h and w.
        """
        parts: list[Tensor] = []
        start = 0
        for axis, width in enumerate(self.sections):
            section = self.frequencies[start : start + width]  # type: ignore[index]
            parts.append(position_ids[axis].unsqueeze(-1).float() * section)
            start += width
        angles = torch.cat([*parts, *parts], dim=-1)
        scales = (self.scale * angles.shape[-1] ** -0.5, self.scale)
        return [(t * scale).to(dtype) for scale in scales for t in (angles.cos(), angles.sin())]


def vision_layout(config: Any) -> VisionLayout:
    """Of a transformers config."""
    vision = config.vision_config.to_dict()
    return VisionLayout.of({"model_type": config.model_type, "vision_config": vision})


@torch.inference_mode()
def key_values(model: Any, prompt: RenderedPrompt) -> PrefixKV:
    """A prompt's keys and values, computed in float32 whatever the model's dtype."""
    encoder = TextEncoder(model)
    device = encoder.text.embed_tokens.weight.device
    x = encoder.text.embed_tokens(torch.from_numpy(prompt.ids).to(device)).float()
    layout = vision_layout(model.config)
    for start, visual in zip(prompt.media_starts, prompt.media, strict=True):
        vision = copy.deepcopy(VisionEncoder(model)).float()
        inputs = [torch.from_numpy(a).to(device) for a in layout.arrays([visual]).values()]
        (states,) = layout.states([visual], vision(*inputs).cpu().numpy())
        x[start : start + visual.tokens] = torch.from_numpy(states).to(device)
    turns = encoder.turns(torch.from_numpy(prompt.positions).to(device), x.dtype)
    bias = _bias(torch.ones(len(x), len(x), device=device).tril() > 0, x.dtype)
    found: list[tuple[Tensor, Tensor]] = []
    for layer in encoder.text.layers:  # widened one at a time
        x, k, v = encoder.block(copy.deepcopy(layer).float(), x, turns, bias)
        found.append((k, v))
    keys, values = zip(*found, strict=True)
    return PrefixKV(torch.stack(keys), torch.stack(values))


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.full_like(zero, -3e4))


def _split(projection: Any, x: Tensor, dim: int) -> Tensor:
    """(tokens, hidden) -> (heads, tokens, dim)."""
    return projection(x).view(-1, projection.out_features // dim, dim).transpose(0, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
