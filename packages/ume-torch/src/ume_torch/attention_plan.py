"""Who attends to whom in one pack; index arithmetic done once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ume_qwen.pack import Pack
from ume_torch.attention import Segments, Varlen
from ume_torch.kv import LayerKV


@dataclass(frozen=True)
class _Layout:
    """Segments of queries and what each sees, for one call.

    Attributes:
        index: places of the keys, segment by segment, among the cached prefixes' tokens and, behind
            them, the pack's; None where that is the pack itself.
    """

    index: Tensor | None
    queries: Segments
    keys: Segments


class AttentionPlan:
    """Attention over a pack's forest: one call a node, or a single call where a kernel has it.

    Shapes: q, k, v and results are (tokens, heads, dim); keys and values may have fewer heads.
    """

    def __init__(
        self,
        pack: Pack,
        prefixes: dict[bytes, LayerKV],
        device: torch.device,
        varlen: Varlen | None,
    ) -> None:
        self.pack, self.prefixes, self.device, self.varlen = pack, prefixes, device, varlen
        self._chains = [pack.chain(i) for i in range(len(pack.nodes))]
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Every computed node over its ancestors and, causally, itself."""
        if self.varlen is not None:
            return self._at_once(self.varlen, q, k, v, layer, self._nodes)
        out = torch.empty_like(q)
        for number, node in enumerate(self.pack.nodes):
            if node.offset < 0:
                continue
            own = slice(node.offset, node.offset + len(node))
            keys, values = self.chain_kv(number, k, v, layer)
            out[own] = _attention(q[own], keys, values, self._mask(len(node), len(keys)))
        return out

    def attend_asked(
        self, q: Tensor, k: Tensor, v: Tensor, asked: Sequence[int], layer: int
    ) -> Tensor:
        """The tokens at the places `asked` (one row of `q` each) over what stands up to them."""
        seen = [self._seen(place) for place in asked]
        if self.varlen is not None:
            layout = self._layout([1] * len(asked), [self._places(n)[:m] for n, m in seen])
            return self._at_once(self.varlen, q, k, v, layer, layout)
        out = torch.empty_like(q)
        for row, (number, visible) in enumerate(seen):
            keys, values = self.chain_kv(number, k, v, layer)
            out[row] = _attention(q[row : row + 1], keys[:visible], values[:visible], None)[0]
        return out

    def chain_kv(self, number: int, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of a node and its ancestors."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for ancestor in self._chains[number]:
            node = self.pack.nodes[ancestor]
            if node.offset < 0:
                cached = self.prefixes[node.prefix or b""][layer]
                keys.append(cached[0])
                values.append(cached[1])
            else:
                keys.append(k[node.offset : node.offset + len(node)])
                values.append(v[node.offset : node.offset + len(node)])
        if len(keys) == 1:
            return keys[0], values[0]
        return torch.cat(keys), torch.cat(values)

    def _seen(self, place: int) -> tuple[int, int]:
        """The node that holds a place, and how many tokens of its chain stand up to there."""
        nodes = enumerate(self.pack.nodes)
        number = next(i for i, n in nodes if 0 <= n.offset <= place < n.offset + len(n))
        before = sum(len(self.pack.nodes[ancestor]) for ancestor in self._chains[number][:-1])
        return number, before + place - self.pack.nodes[number].offset + 1

    def _at_once(
        self, varlen: Varlen, q: Tensor, k: Tensor, v: Tensor, layer: int, layout: _Layout
    ) -> Tensor:
        if layout.index is not None:
            cached = [
                self.prefixes[n.prefix or b""][layer] for n in self.pack.nodes if n.offset < 0
            ]
            k = torch.cat([*(kv[0] for kv in cached), k])[layout.index]
            v = torch.cat([*(kv[1] for kv in cached), v])[layout.index]
        return varlen(q, k, v, layout.queries, layout.keys, causal=True)

    @cached_property
    def _nodes(self) -> _Layout:
        computed = [i for i, n in enumerate(self.pack.nodes) if n.offset >= 0]
        lengths = [len(self.pack.nodes[i]) for i in computed]
        return self._layout(lengths, [self._places(i) for i in computed])

    def _layout(self, queries: list[int], seen: list[npt.NDArray[np.int64]]) -> _Layout:
        flat = np.concatenate(seen)
        plain = len(flat) == self.pack.tokens and bool((flat == np.arange(len(flat))).all())
        return _Layout(
            None if plain else torch.from_numpy(flat).to(self.device),
            Segments.of(queries, self.device),
            Segments.of([len(places) for places in seen], self.device),
        )

    def _places(self, number: int) -> npt.NDArray[np.int64]:
        """Where a node's chain stands among the cached prefixes' tokens and the pack's."""
        chain = self._chains[number]
        parts = [np.arange(len(self.pack.nodes[i])) + self._firsts[i] for i in chain]
        return np.concatenate(parts)

    @cached_property
    def _firsts(self) -> list[int]:
        """Per node the place of its first token, cached prefixes before the pack."""
        cached = sum(len(n) for n in self.pack.nodes if n.offset < 0)
        found: list[int] = []
        so_far = 0
        for node in self.pack.nodes:
            found.append(so_far if node.offset < 0 else cached + node.offset)
            so_far += len(node) if node.offset < 0 else 0
        return found

    def _mask(self, queries: int, keys: int) -> Tensor | None:
        """Causal from the lower right; None where plain causal means the same."""
        if queries == keys:
            return None
        if (queries, keys) not in self._masks:
            last = torch.arange(keys - queries, keys, device=self.device)[:, None]
            self._masks[queries, keys] = torch.arange(keys, device=self.device) <= last
        return self._masks[queries, keys]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One segment; causal unless a mask says otherwise."""
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    causal = mask is None and q.shape[2] > 1
    if q.is_cuda:
        # With a mask or in float32, grouped heads leave CUDA the quadratic kernel only; in half
        # precision and without a mask this loop does not run (see `ume_torch.attention`).
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)
    return out[0].transpose(0, 1)
