"""The vision tower over many images at once, each distinct one once, no attention across images.

transformers runs one attention call per image and layer. Qwen2-VL's images of equal patch count are
one batch here instead, or all images one sequence where one call attends to its segments
(`ume_torch.attention`); same maths, same weights. Qwen2.5-VL has window
attention, whose layout depends on the image, and goes through transformers' own forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ume_qwen.cache import ByteCache
from ume_qwen.patches import VisualInput
from ume_qwen.sizes import MERGE
from ume_torch.attention import Segments, Varlen

# Patches of one pass; more would only raise the peak of memory.
_PASS_PATCHES = 16_384


class Vision:
    """The tower of one model, with the states it computed last. Thread-safe."""

    def __init__(self, visual: Any, cache_bytes: int, varlen: Varlen | None) -> None:
        self._visual, self.varlen = visual, varlen
        if _windowed(visual) and not isinstance(visual.patch_embed, _PatchEmbed):
            visual.patch_embed = _PatchEmbed(visual.patch_embed.proj)
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
            made = encode_visuals(self._visual, part, self.varlen)
            for item, states in zip(part, made, strict=True):
                found[item.digest] = states.clone()  # not a view that keeps the whole pass alive
                self._states.put(item.digest, found[item.digest])
        return [found[item.digest] for item in media]

    def forget(self) -> None:
        """Drop the states computed before: the weights have changed."""
        self._states.clear()


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


def encode_visuals(
    visual: Any, media: Sequence[VisualInput], varlen: Varlen | None = None
) -> list[Tensor]:
    """One (tokens, hidden) tensor per image or video, in order.

    Args:
        visual: transformers' vision tower of either architecture.
        media: patchified images and videos of any sizes.
        varlen: attends to many images in one call; without it, images of one size are one.
    """
    if _windowed(visual):
        return [_through_transformers(visual, m) for m in media]
    return _bucketed(visual, media) if varlen is None else _at_once(visual, media, varlen)


def _windowed(visual: Any) -> bool:
    return visual.config.model_type.startswith("qwen2_5")


class _PatchEmbed(nn.Module):
    """Qwen2.5-VL's patch embedding as the matrix product it is.

    The published Conv3d's stride is as large as its kernel. On CUDA cuDNN would compute it in TF32
    by default, float32 models included.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, patches: Tensor) -> Tensor:
        """(patches, values) -> (patches, width)."""
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1))


def _through_transformers(visual: Any, media: VisualInput) -> Tensor:
    weight: Tensor = visual.patch_embed.proj.weight
    pixels = torch.from_numpy(media.patches).to(weight.device, weight.dtype)
    out = visual(pixels, grid_thw=torch.tensor([media.grid], device=weight.device))
    # transformers 5.x returns an output object, 4.57 the merged states themselves.
    return out if isinstance(out, Tensor) else out.pooler_output


def _at_once(visual: Any, media: Sequence[VisualInput], varlen: Varlen) -> list[Tensor]:
    """All images and frames as one sequence."""
    weight: Tensor = visual.patch_embed.proj.weight
    heads: int = visual.config.num_heads
    pixels = torch.cat([torch.from_numpy(m.patches) for m in media])
    sizes = [(h, w) for t, h, w in (m.grid for m in media) for _ in range(t)]
    dim = visual.config.embed_dim // heads
    angles = {(h, w): _rotary(h, w, dim, weight.device) for h, w in set(sizes)}
    cos = torch.cat([angles[size][0] for size in sizes])[:, None]
    sin = torch.cat([angles[size][1] for size in sizes])[:, None]
    frames = Segments.of([h * w for h, w in sizes], weight.device)

    def attend(attn: Any, x: Tensor) -> Tensor:
        q, k, v = attn.qkv(x).view(len(x), 3, heads, -1).unbind(1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        return attn.proj(varlen(q, k, v, frames, frames, causal=False).flatten(1))

    states = _tower(visual, pixels.to(weight.device, weight.dtype), attend)
    return list(states.split([m.tokens for m in media]))


def _bucketed(visual: Any, media: Sequence[VisualInput]) -> list[Tensor]:
    weight: Tensor = visual.patch_embed.proj.weight
    heads: int = visual.config.num_heads
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(media):
        buckets[item.grid[1:]].append(index)
    out: list[Tensor | None] = [None] * len(media)
    for (h, w), members in buckets.items():
        pixels = torch.cat([torch.from_numpy(media[i].patches) for i in members])
        frames = pixels.view(-1, h * w, pixels.shape[-1]).to(weight.device, weight.dtype)
        cos, sin = _rotary(h, w, visual.config.embed_dim // heads, weight.device)
        attend = partial(_attend_frames, heads=heads, cos=cos, sin=sin)
        states = _tower(visual, frames, attend).flatten(0, 1)
        sizes = [media[i].tokens for i in members]
        for index, part in zip(members, states.split(sizes), strict=True):
            out[index] = part
    return [o for o in out if o is not None]


def _tower(visual: Any, patches: Tensor, attend: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """(..., patches, values) -> (..., patches / 4, hidden)."""
    # A stride as large as the kernel makes the published Conv3d a matrix product.
    x = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
    for block in visual.blocks:
        x = x + attend(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    merger = visual.merger
    return merger.mlp(merger.ln_q(x).reshape(*x.shape[:-2], -1, merger.hidden_size))


def _attend_frames(attn: Any, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Each frame of (frames, patches, width) to itself."""
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
