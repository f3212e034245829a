"""The vision tower over many images at once, each distinct one once, no attention across images.

transformers runs one attention call per image and layer. Qwen2-VL's images of equal patch count are
one batch here instead (same maths, same weights). Qwen2.5-VL has window
attention, whose layout depends on the image, and goes through transformers' own forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.cache import ByteCache
from ume_core.qwen.patches import VisualInput
from ume_core.sizes import MERGE

# Patches of one pass; more would only raise the peak of memory.
_PASS_PATCHES = 16_384


class Vision:
    """The tower of one model, with the states it computed last. Thread-safe."""

    def __init__(self, visual: Any, cache_bytes: int) -> None:
        self._visual = visual
        self._states = ByteCache[bytes, Tensor](cache_bytes, lambda t: t.numel() * t.element_size())

    def __call__(self, media: Sequence[VisualInput], *, together: bool = True) -> list[Tensor]:
        """One (tokens, hidden) tensor per image or video, in order.

        Args:
            together: False computes every one in a pass of its own.
        """
        found: dict[bytes, Tensor] = {}
        missing: dict[bytes, VisualInput] = {}
        for item in media:
            states = self._states.get(item.digest)
            if states is not None:
                found[item.digest] = states
            else:
                missing[item.digest] = item
        for part in _passes(list(missing.values()), _PASS_PATCHES if together else 0):
            for item, states in zip(part, encode_visuals(self._visual, part), strict=True):
                found[item.digest] = states.clone()  # not a view that keeps the whole pass alive
                self._states.put(item.digest, found[item.digest])
        return [found[item.digest] for item in media]


def _passes(media: list[VisualInput], patches: int) -> Iterator[list[VisualInput]]:
    """Groups within a number of patches, at least one each."""
    part: list[VisualInput] = []
    for item in media:
        if part and sum(len(p.patches) for p in part) + len(item.patches) > patches:
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def encode_visuals(visual: Any, media: Sequence[VisualInput]) -> list[Tensor]:
    """One (tokens, hidden) tensor per image or video, in order.

    Args:
        visual: transformers' vision tower of either architecture.
        media: patchified images and videos of any sizes.
    """
    if visual.config.model_type.startswith("qwen2_5"):
        return [_through_transformers(visual, m) for m in media]
    return _bucketed(visual, media)


def _through_transformers(visual: Any, media: VisualInput) -> Tensor:
    weight: Tensor = visual.patch_embed.proj.weight
    pixels = torch.from_numpy(media.patches).to(weight.device, weight.dtype)
    out = visual(pixels, grid_thw=torch.tensor([media.grid], device=weight.device))
    # transformers 5.x returns an output object, 4.57 the merged states themselves.
    return out if isinstance(out, Tensor) else out.pooler_output


def _bucketed(visual: Any, media: Sequence[VisualInput]) -> list[Tensor]:
    weight: Tensor = visual.patch_embed.proj.weight
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(media):
        buckets[item.grid[1:]].append(index)
    out: list[Tensor | None] = [None] * len(media)
    for (h, w), members in buckets.items():
        pixels = torch.cat([torch.from_numpy(media[i].patches) for i in members])
        frames = pixels.view(-1, h * w, pixels.shape[-1]).to(weight.device, weight.dtype)
        states = _tower(visual, frames, h, w).flatten(0, 1)
        sizes = [media[i].tokens for i in members]
        for index, part in zip(members, states.split(sizes), strict=True):
            out[index] = part
    return [o for o in out if o is not None]


def _tower(visual: Any, frames: Tensor, h: int, w: int) -> Tensor:
    """(frames, h*w, patch values) -> (frames, h*w/4, hidden); each frame attends to itself."""
    # A stride as large as the kernel makes the published Conv3d a matrix product.
    x = F.linear(frames, visual.patch_embed.proj.weight.flatten(1))
    heads: int = visual.config.num_heads
    cos, sin = _rotary(h, w, x.shape[-1] // heads, x.device)
    for block in visual.blocks:
        x = x + _attention(block.attn, block.norm1(x), heads, cos, sin)
        x = x + block.mlp(block.norm2(x))
    merger = visual.merger
    return merger.mlp(merger.ln_q(x).reshape(x.shape[0], -1, merger.hidden_size))


def _attention(attn: Any, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    count, length, width = x.shape
    qkv = attn.qkv(x).view(count, length, 3, heads, width // heads)
    q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
    mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    return attn.proj(mixed.transpose(1, 2).reshape(count, length, width))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.float()
    left, right = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def _rotary(h: int, w: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos, sin (h*w, head_dim) in float32: half the frequencies turn by row, half by column."""
    # theta 10000: transformers `VisionRotaryEmbedding` of both architectures.
    quarter = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / (10000.0 ** (quarter / (head_dim // 2)))
    rows = torch.arange(h, device=device)[:, None].expand(h, w)
    columns = torch.arange(w, device=device)[None, :].expand(h, w)

    def windowed(grid: Tensor) -> Tensor:
        """Patches in merge-window order, as the patchifier cuts them."""
        return grid.reshape(h // MERGE, MERGE, w // MERGE, MERGE).transpose(1, 2).reshape(-1)

    angles = torch.cat(
        [windowed(rows)[:, None] * frequencies, windowed(columns)[:, None] * frequencies], dim=-1
    )
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()
