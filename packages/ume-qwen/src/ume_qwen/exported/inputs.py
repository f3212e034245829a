"""The two graphs of the exported disc encoder, and the arrays they take.

`vision_encoder` computes images of one size at a time: no attention crosses images, no padding, no
quadratic mask over a batch. `text_encoder` takes prompts packed end to end, every shared beginning
once, and returns unit vectors; its mask is quadratic in the pack, so packs are bounded. What all
prompts begin with (`ume_qwen.exported.prefix`) is not computed: its keys and values are constants.
What depends on the data in ways a graph expresses badly (patch rotations, window layout, M-RoPE
positions, where visual states go) is computed here, in numpy, for ONNX Runtime and TensorRT alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ume_qwen.pack import Pack
from ume_qwen.patches import VisualInput
from ume_qwen.sizes import MERGE, PATCH

Floats: TypeAlias = npt.NDArray[np.float32]
Arrays: TypeAlias = "dict[str, npt.NDArray[Any]]"

VISION, TEXT = "vision_encoder", "text_encoder"
TEXT_INPUTS = (
    "input_ids", "position_ids", "prefix_tokens", "place", "tree_start", "tree_end",
    "visual_embeds", "visual_index", "embed_index",
)  # fmt: skip
OUTPUTS = {VISION: "visual_states", TEXT: "sentence_embedding"}
_THETA = 10000.0  # transformers `VisionRotaryEmbedding` of both architectures


@dataclass(frozen=True)
class VisionLayout:
    """How a vision tower lays out patches.

    Attributes:
        head_dim: of its attention.
        window: side of Qwen2.5-VL's windows in merged tokens, else 0.
    """

    head_dim: int
    window: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> VisionLayout:
        """From a checkpoint's config.json."""
        vision = config["vision_config"]
        if config["model_type"] == "qwen2_vl":
            return cls(int(vision["embed_dim"]) // int(vision["num_heads"]))
        window = int(vision["window_size"]) // (MERGE * PATCH)
        return cls(int(vision["hidden_size"]) // int(vision["num_heads"]), window)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the vision graph's inputs."""
        return ("pixel_values", "cos", "sin", *(("window_bias",) if self.window else ()))

    def arrays(self, media: Sequence[VisualInput]) -> Arrays:
        """Inputs for images or videos of one frame size (h, w), frame after frame.

        Returns:
            pixel_values float32 (frames, patches, 1176); cos, sin float32 (patches, head_dim);
            window_bias float32 (patches, patches), 0 inside a window and -1e9 across.
        """
        _, h, w = media[0].grid
        pixels = np.concatenate([m.patches for m in media])
        frames = np.reshape(pixels, (-1, h * w, pixels.shape[-1]))
        cos, sin = self._rotations(h, w)
        if not self.window:
            return {"pixel_values": frames, "cos": cos, "sin": sin}
        order, window = self._windows(h, w)
        patches = _patches(order)
        across = window[patches // MERGE**2][:, None] != window[patches // MERGE**2][None]
        bias = np.where(across, np.float32(-1e9), np.float32(0))
        return {
            "pixel_values": frames[:, patches],
            "cos": cos[patches],
            "sin": sin[patches],
            "window_bias": bias,
        }

    def states(self, media: Sequence[VisualInput], output: Floats) -> list[Floats]:
        """The graph's output (frames, tokens, hidden) as (tokens, hidden) per image or video."""
        _, h, w = media[0].grid
        if self.window:
            order, _ = self._windows(h, w)
            output = output[:, np.argsort(order)]
        flat = np.reshape(output, (-1, output.shape[-1]))
        ends = np.cumsum([m.tokens for m in media])[:-1]
        return list(np.split(flat, ends))

    def _rotations(self, h: int, w: int) -> tuple[Floats, Floats]:
        quarter = np.arange(0, self.head_dim // 2, 2, dtype=np.float32)
        frequencies = (1.0 / _THETA ** (quarter / np.float32(self.head_dim // 2))).astype(
            np.float32
        )
        grids = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        columns: list[Floats] = []
        for grid in grids:  # patches stand in merge-window order, as the patchifier cuts them
            cut = np.reshape(grid, (h // MERGE, MERGE, w // MERGE, MERGE))
            places = np.ravel(np.transpose(cut, (0, 2, 1, 3))).astype(np.float32)
            columns.append(places[:, None] * frequencies)
        half = np.concatenate(columns, axis=1)
        angles = np.concatenate([half, half], axis=1)
        return np.cos(angles), np.sin(angles)

    def _windows(self, h: int, w: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Order of merged tokens by window (row-major in and between), and each one's window."""
        rows, columns = np.arange(h // MERGE) // self.window, np.arange(w // MERGE) // self.window
        across = -(-(w // MERGE) // self.window)
        window = np.ravel(rows[:, None] * across + columns[None])
        return np.argsort(window, kind="stable"), window


def text_arrays(pack: Pack, states: Mapping[bytes, Floats], *, hidden: int) -> Arrays:
    """Inputs of the text graph for a pack of prompts that end at `<disc_emb>`.

    A token attends to those of its own and its ancestor nodes that do not stand behind it, and of
    the graph's prefix to as many as its prompt begins with where the pack has them as cached. In a
    walk over the forest that numbers nodes as it enters them, a node's descendants are the numbers
    from its own up to the last one given beneath it: comparing numbers tells ancestors.

    Args:
        states: (tokens, hidden) by the digest of every image and video in the prompts.
        hidden: the model's width.

    Returns:
        input_ids, visual_index, prefix_tokens, place, tree_start, tree_end int64 (tokens,): how
        many tokens of the graph's prefix a token attends to, where it stands in its prompt, its
        node's number and the first number that is no descendant's, from 1;
        position_ids int64 (3, tokens); embed_index int64 (rows,), each prompt's `<disc_emb>`;
        visual_embeds float32 (1 + visual tokens, hidden), of which row 0 stands for "no visual".
    """
    starts, ends = _numbered(pack)
    computed = [number for number, node in enumerate(pack.nodes) if node.offset >= 0]
    nodes = [pack.nodes[number] for number in computed]
    roots = [pack.nodes[pack.chain(number)[0]] for number in computed]

    def by_token(values: Sequence[int]) -> npt.NDArray[np.int64]:
        return np.repeat(np.array(values, dtype=np.int64), [len(node) for node in nodes])

    visual_index = np.zeros(pack.tokens, dtype=np.int64)
    parts: list[Floats] = [np.zeros((1, hidden), dtype=np.float32)]
    rows: dict[bytes, int] = {}
    total = 1
    for place, visual in pack.placed_media():
        if visual.digest not in rows:
            rows[visual.digest] = total
            parts.append(states[visual.digest])
            total += visual.tokens
        first = rows[visual.digest]
        visual_index[place : place + visual.tokens] = np.arange(first, first + visual.tokens)
    return {
        "input_ids": pack.ids(),
        "position_ids": pack.positions(),
        "prefix_tokens": by_token([len(root) if root.offset < 0 else 0 for root in roots]),
        "place": np.concatenate([np.arange(n.start, n.stop) for n in nodes]),
        "tree_start": by_token([starts[number] for number in computed]),
        "tree_end": by_token([ends[number] for number in computed]),
        "visual_embeds": np.concatenate(parts),
        "visual_index": visual_index,
        "embed_index": np.array(
            [pack.place(n, p.disc_index) for n, p in enumerate(pack.prompts)], dtype=np.int64
        ),
    }


def _numbered(pack: Pack) -> tuple[list[int], list[int]]:
    """Per node its number in a walk that enters parents first, and the end of its descendants'."""
    children: dict[int, list[int]] = {}
    for number, node in enumerate(pack.nodes):
        children.setdefault(node.parent, []).append(number)
    starts, ends = [0] * len(pack.nodes), [0] * len(pack.nodes)
    given = 1
    waiting = [(number, False) for number in reversed(children.get(-1, []))]
    while waiting:
        number, left = waiting.pop()
        if left:
            ends[number] = given
            continue
        starts[number] = given
        given += 1
        waiting.append((number, True))
        waiting += [(child, False) for child in reversed(children.get(number, []))]
    return starts, ends


def _patches(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Patch numbers of merged tokens, four each."""
    return np.ravel(order[:, None] * MERGE**2 + np.arange(MERGE**2))
