"""The language model over packs, and one token at a time over running rows.

The same maths as transformers' `Qwen2VLTextModel` (Qwen2-VL and Qwen2.5-VL share it), on its own
weights, without what an embedding does not need: no padding, no logits, no states but those asked
for, and in the last layer no queries but theirs. Nothing is written to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.errors import CheckpointError
from ume_core.qwen.pack import Pack
from ume_torch.attention import Segments, Varlen
from ume_torch.kv import KeyValues, LayerKV


@dataclass(frozen=True)
class Prefilled:
    """What a pack's pass leaves.

    Attributes:
        states: (asked, hidden), final norm applied.
        heads: keys and values of the heads this pass computed.
        rows: per prompt, keys and values of all its tokens; empty unless asked for.
    """

    states: Tensor
    heads: dict[bytes, LayerKV]
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
        heads: dict[bytes, LayerKV],
        *,
        keep: bool,
    ) -> Prefilled:
        """One pass over a pack.

        Args:
            embeds: (tokens, hidden), visual states in place.
            asked: places in the pack whose final states are wanted.
            heads: keys and values of the heads that the pack does not compute.
            keep: whether to return every prompt's keys and values.
        """
        device = embeds.device
        places = torch.tensor(list(asked), device=device)
        cos, sin = self._angles(torch.from_numpy(pack.positions()).to(device), embeds.dtype)
        plan = _Plan(pack, heads, device)
        x = embeds
        new_heads: dict[bytes, LayerKV] = {n.head: [] for n in pack.computed if n.head is not None}
        rows: list[LayerKV] = [[] for _ in pack.prompts] if keep else []
        for number, layer in enumerate(self.layers):
            attn, last = layer.self_attn, number == len(self.layers) - 1
            normed = layer.input_layernorm(x)
            k = _rotate(attn.k_proj(normed).view(-1, self.kv_heads, self.head_dim), cos, sin)
            v = attn.v_proj(normed).view(-1, self.kv_heads, self.head_dim)
            for node in pack.computed:
                if node.head is not None:
                    own = slice(node.offset, node.offset + len(node))
                    new_heads[node.head].append((k[own].clone(), v[own].clone()))
            for row, kv in enumerate(rows):
                kv.append(plan.chain_kv(pack.last[row], k, v, number))
            if last:
                normed, x = normed[places], x[places]
                cos, sin = cos[places], sin[places]
            q = _rotate(attn.q_proj(normed).view(-1, self.heads, self.head_dim), cos, sin)
            if last:
                mixed = plan.attend_last(q, k, v, asked, number)
            elif self.varlen is not None:
                mixed = plan.attend_at_once(self.varlen, q, k, v, number)
            else:
                mixed = plan.attend(q, k, v, number)
            x = x + attn.o_proj(mixed.flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return Prefilled(self.norm(x), new_heads, rows)

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


@dataclass(frozen=True)
class _Chains:
    """What all computed nodes see, for one call.

    Attributes:
        stored: keys of the stored heads. index: which of their tokens and then the pack's each
            node sees, node by node; None where that is the pack itself.
    """

    stored: list[bytes]
    index: Tensor | None
    queries: Segments
    keys: Segments


class _Plan:
    """Who attends to whom in one pack; index arithmetic done once for all layers."""

    def __init__(self, pack: Pack, heads: dict[bytes, LayerKV], device: torch.device) -> None:
        self.pack = pack
        self.heads = heads
        self.device = device
        self._chains = [pack.chain(i) for i in range(len(pack.nodes))]
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Every node over its chain. q (tokens, heads, dim) -> the same shape."""
        out = torch.empty_like(q)
        for number, node in enumerate(self.pack.nodes):
            if node.offset < 0:
                continue
            own = slice(node.offset, node.offset + len(node))
            keys, values = self.chain_kv(number, k, v, layer)
            out[own] = _attention(q[own], keys, values, self._mask(len(node), len(keys)))
        return out

    def attend_last(
        self, q: Tensor, k: Tensor, v: Tensor, asked: Sequence[int], layer: int
    ) -> Tensor:
        """Single tokens over what stands up to them. q (asked, heads, dim)."""
        out = torch.empty_like(q)
        for row, place in enumerate(asked):
            number = self._node_at(place)
            node = self.pack.nodes[number]
            keys, values = self.chain_kv(number, k, v, layer)
            visible = len(keys) - (node.offset + len(node) - 1 - place)
            out[row] = _attention(q[row : row + 1], keys[:visible], values[:visible], None)[0]
        return out

    def _node_at(self, place: int) -> int:
        nodes = enumerate(self.pack.nodes)
        return next(i for i, n in nodes if 0 <= n.offset <= place < n.offset + len(n))

    def attend_at_once(self, varlen: Varlen, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """`attend` in one call."""
        chains = self._all_chains
        stored = [self.heads[head][layer] for head in chains.stored]
        if chains.index is not None:
            k = torch.cat([*(kv[0] for kv in stored), k])[chains.index]
            v = torch.cat([*(kv[1] for kv in stored), v])[chains.index]
        return varlen(q, k, v, chains.queries, chains.keys, causal=True)

    @cached_property
    def _all_chains(self) -> _Chains:
        """Every computed node's chain, laid end to end."""
        stored = [n for n in self.pack.nodes if n.offset < 0]
        sums = np.cumsum([0, *(len(n) for n in stored)])
        begins = {id(n): int(at) for n, at in zip(stored, sums, strict=False)}
        own = int(sums[-1])  # the pack's tokens follow the stored heads'
        places: list[npt.NDArray[np.int64]] = []
        lengths: list[int] = []
        for number, node in enumerate(self.pack.nodes):
            if node.offset < 0:
                continue
            chain = [self.pack.nodes[ancestor] for ancestor in self._chains[number]]
            for part in chain:
                first = begins[id(part)] if part.offset < 0 else own + part.offset
                places.append(np.arange(first, first + len(part)))
            lengths.append(sum(len(part) for part in chain))
        flat = np.concatenate(places)
        plain = not stored and len(flat) == self.pack.tokens  # every chain is one node
        return _Chains(
            [n.head or b"" for n in stored],
            None if plain else torch.from_numpy(flat).to(self.device),
            Segments.of([len(n) for n in self.pack.computed], self.device),
            Segments.of(lengths, self.device),
        )

    def chain_kv(self, number: int, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of a node and its ancestors, (tokens, KV heads, dim)."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for ancestor in self._chains[number]:
            node = self.pack.nodes[ancestor]
            if node.offset < 0:
                stored = self.heads[node.head or b""][layer]
                keys.append(stored[0])
                values.append(stored[1])
            else:
                keys.append(k[node.offset : node.offset + len(node)])
                values.append(v[node.offset : node.offset + len(node)])
        if len(keys) == 1:
            return keys[0], values[0]
        return torch.cat(keys), torch.cat(values)

    def _mask(self, queries: int, keys: int) -> Tensor | None:
        """Causal from the lower right; None where plain causal means the same."""
        if queries == keys:
            return None
        if (queries, keys) not in self._masks:
            last = torch.arange(keys - queries, keys, device=self.device)[:, None]
            self._masks[queries, keys] = torch.arange(keys, device=self.device) <= last
        return self._masks[queries, keys]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(tokens, heads, dim) each, one segment; causal unless a mask says otherwise."""
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    causal = mask is None and q.shape[2] > 1
    if q.is_cuda and mask is not None:
        # With a mask and grouped heads only the quadratic kernel is left on CUDA.
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)
    return out[0].transpose(0, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
