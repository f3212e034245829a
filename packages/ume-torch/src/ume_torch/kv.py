"""Keys and values of the rows that are decoding.

One tensor per layer holds all rows, each left-aligned. It grows by a fixed number of tokens, layer
by layer, so that memory follows the tokens and a step writes one column instead of copying the
past. Rows that leave are cut out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 64  # tokens by which room grows


@dataclass(frozen=True)
class Shape:
    """What a cache's tensors look like."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


class KeyValues:
    """Keys and values of running rows; row order is the caller's."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.lengths: list[int] = []
        self._keys = [self._room(0, 0) for _ in range(shape.layers)]
        self._values = [self._room(0, 0) for _ in range(shape.layers)]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values))

    def bytes_for(self, rows: int, tokens: int) -> int:
        """Bytes it would hold with that many rows, the longest of that many tokens."""
        element = torch.empty(0, dtype=self.shape.dtype).element_size()
        per_token = 2 * self.shape.layers * self.shape.kv_heads * self.shape.head_dim * element
        return rows * _rounded(tokens) * per_token

    def add(self, prompts: list[list[tuple[Tensor, Tensor]]]) -> None:
        """Append rows that hold the keys and values (tokens, KV heads, dim) of whole prompts."""
        first = len(self.lengths)
        lengths = self.lengths + [len(p[0][0]) for p in prompts]
        self._reshape(len(lengths), max(lengths))
        for layer in range(self.shape.layers):
            for row, prompt in enumerate(prompts, first):
                keys, values = prompt[layer]
                self._keys[layer][row, :, : len(keys)] = keys.transpose(0, 1)
                self._values[layer][row, :, : len(values)] = values.transpose(0, 1)
        self.lengths = lengths

    def extend(self) -> Tensor:
        """Make room for one more token a row; the mask (rows, 1, 1, tokens) that includes it."""
        self.lengths = [n + 1 for n in self.lengths]
        longest = max(self.lengths)
        self._reshape(len(self.lengths), longest)
        device = self.shape.device
        lengths = torch.tensor(self.lengths, device=device)
        self._places = (torch.arange(len(lengths), device=device), lengths - 1)
        self._longest = longest
        return (torch.arange(longest, device=device) < lengths[:, None])[:, None, None]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new (rows, KV heads, dim); all its keys and values so far."""
        rows, columns = self._places
        self._keys[layer][rows, :, columns] = k
        self._values[layer][rows, :, columns] = v
        longest = self._longest
        return self._keys[layer][:, :, :longest], self._values[layer][:, :, :longest]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these, which keep their order."""
        self.lengths = [self.lengths[r] for r in rows]
        longest = max(self.lengths, default=0)
        index = torch.tensor(rows, device=self.shape.device, dtype=torch.long)
        for tensors in (self._keys, self._values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = tensor[:, :, : _rounded(longest)][index]

    def _reshape(self, rows: int, longest: int) -> None:
        """Grow to hold that many rows and tokens, one tensor at a time."""
        have_rows, _, have, _ = self._keys[0].shape
        if rows <= have_rows and longest <= have:
            return
        room = max(_rounded(longest), have)
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                new = self._room(rows, room)
                new[:have_rows, :, :have] = old
                tensors[layer] = new

    def _room(self, rows: int, tokens: int) -> Tensor:
        s = self.shape
        # Zeros, not leftovers: masked places are multiplied by zero, and NaN would survive that.
        return torch.zeros(rows, s.kv_heads, tokens, s.head_dim, dtype=s.dtype, device=s.device)


def _rounded(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK
