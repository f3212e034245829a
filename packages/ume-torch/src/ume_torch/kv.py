"""Keys and values of the rows that are decoding.

One tensor per layer holds all rows, each left-aligned. It grows by a fixed number of tokens, layer
by layer, so that memory follows the tokens and a step writes one column instead of copying the
past. Rows that leave are overwritten in place: that must not need memory when there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

# Per layer: keys and values (tokens, KV heads, head dim), keys already rotated.
LayerKV: TypeAlias = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """What a cache's tensors look like.

    Attributes:
        block: tokens by which room grows.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    block: int = 64

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


def compacted(kept: Sequence[int]) -> list[int]:
    """The rows that stay, given ascending, in an order that moves few: the last fill the gaps."""
    count, stays = len(kept), set(kept)
    last = [row for row in kept if row >= count]
    return [place if place in stays else last.pop() for place in range(count)]


class KeyValues:
    """Keys and values of running rows; row order is the caller's.

    Attributes:
        lengths: tokens of every row.
        version: changes whenever tensors are replaced.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.lengths: list[int] = []
        self.version = 0
        self._keys = [self.allocate(0, 0) for _ in range(shape.layers)]
        self._values = [self.allocate(0, 0) for _ in range(shape.layers)]

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values))

    def bytes_for(self, rows: int, tokens: int) -> int:
        """Bytes it would hold with that many rows, the longest of that many tokens."""
        return rows * self._rounded(tokens) * self.shape.bytes_per_token

    def add(self, prompts: Sequence[LayerKV]) -> None:
        """Append rows that hold the keys and values (tokens, KV heads, dim) of whole prompts."""
        first = len(self.lengths)
        lengths = self.lengths + [len(p[0][0]) for p in prompts]
        self._reshape(len(lengths), max(lengths))
        for layer in range(self.shape.layers):
            for row, prompt in enumerate(prompts, first):
                keys, values = prompt[layer]
                for room, new in ((self._keys[layer], keys), (self._values[layer], values)):
                    room[row, :, : len(new)] = new.transpose(0, 1)
                    room[row, :, len(new) :] = 0  # what a row before left there might be NaN
        self.lengths = lengths

    @property
    def room(self) -> tuple[int, int]:
        """Rows and tokens that fit without growing."""
        shapes = [t.shape for t in (*self._keys, *self._values)]  # unequal where growth failed
        return min(s[0] for s in shapes), min(s[2] for s in shapes)

    def extend(self) -> None:
        """Make room for one more token a row, and count it."""
        self._reshape(len(self.lengths), max(self.lengths) + 1)
        self.lengths = [n + 1 for n in self.lengths]

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """A layer's whole room, keys and values (rows, KV heads, tokens, dim)."""
        return self._keys[number], self._values[number]

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but these; the room stays until the next growth.

        Args:
            order: `compacted`'s, so that each row that moves is copied once.
        """
        moved = [(place, row) for place, row in enumerate(order) if place != row]
        for tensors in (self._keys, self._values):
            for tensor in tensors:
                for place, row in moved:
                    tensor[place] = tensor[row]
        self.lengths = [self.lengths[row] for row in order]

    def clear(self) -> None:
        """Drop all rows and the room, whatever a failed growth left behind."""
        self.lengths = []
        self.version += 1
        for tensors in (self._keys, self._values):
            for layer in range(len(tensors)):
                tensors[layer] = self.allocate(0, 0)

    def _reshape(self, rows: int, longest: int) -> None:
        """Grow to hold that many rows and tokens, one tensor at a time.

        Safe to fail: tensors that have grown are larger than need be, and nothing else changed.
        """
        have = len(self.lengths)
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                if rows <= old.shape[0] and longest <= old.shape[2]:
                    continue
                self.version += 1
                new = self.allocate(rows, max(self._rounded(longest), old.shape[2]))
                kept = min(have, old.shape[0])
                new[:kept, :, : old.shape[2]] = old[:kept]
                tensors[layer] = new

    def allocate(self, rows: int, tokens: int) -> Tensor:
        """New room for one layer's keys or values, (rows, KV heads, tokens, dim)."""
        s = self.shape
        # Zeros, not leftovers: masked places are multiplied by zero, and NaN would survive that.
        return torch.zeros(rows, s.kv_heads, tokens, s.head_dim, dtype=s.dtype, device=s.device)

    def _rounded(self, tokens: int) -> int:
        return -(-tokens // self.shape.block) * self.shape.block
