"""The two graphs of the exported disc encoder, and the arrays they take.

`vision_encoder` computes images of one size at a time: no attention crosses images, no padding, no
quadratic mask over a batch. `text_encoder` takes right-padded prompts and returns unit vectors.
What depends on the data in ways a graph expresses badly (patch rotations, window layout, M-RoPE
positions, where visual states go) is computed here, in numpy, for ONNX Runtime and TensorRT alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ume_core.qwen.patches import VisualInput
from ume_core.qwen.render import Rendered
from ume_core.sizes import MERGE, PATCH

Floats: TypeAlias = npt.NDArray[np.float32]
Arrays: TypeAlias = "dict[str, npt.NDArray[Any]]"

MANIFEST = "ume_export.json"
ENGINES = "tensorrt"  # folder of an exported directory that holds built engines
VISION, TEXT = "vision_encoder", "text_encoder"
TEXT_INPUTS = ("input_ids", "position_ids", "visual_embeds", "visual_index", "embed_index")
OUTPUTS = {VISION: "visual_states", TEXT: "sentence_embedding"}
_THETA = 10000.0  # transformers `VisionRotaryEmbedding` of both architectures


@dataclass(frozen=True)
class VisionLayout:
    """How a vision tower lays out patches.

    Attributes:
        head_dim: of its attention. window: side of Qwen2.5-VL's windows in merged tokens, else 0.
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


def text_arrays(
    prompts: Sequence[Rendered], states: Mapping[bytes, Floats], *, pad: int, hidden: int
) -> Arrays:
    """Inputs of the text graph for prompts that end at `<disc_emb>`.

    Args:
        states: (tokens, hidden) by the digest of every image and video in the prompts.
        pad: token id that fills shorter rows. hidden: the model's width.

    Returns:
        input_ids, visual_index int64 (rows, tokens), right-padded; position_ids int64
        (3, rows, tokens); embed_index int64 (rows,); visual_embeds float32 (1 + visual tokens,
        hidden), of which row 0 stands for "no visual".
    """
    rows, width = len(prompts), max(len(p.ids) for p in prompts)
    input_ids = np.full((rows, width), pad, dtype=np.int64)
    visual_index = np.zeros((rows, width), dtype=np.int64)
    position_ids = np.zeros((3, rows, width), dtype=np.int64)
    starts: dict[bytes, int] = {}
    parts: list[Floats] = [np.zeros((1, hidden), dtype=np.float32)]
    total = 1
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        input_ids[row, :length] = prompt.ids
        position_ids[:, row, :length] = prompt.positions
        for place, visual in zip(prompt.media_starts, prompt.media, strict=True):
            if visual.digest not in starts:
                starts[visual.digest] = total
                parts.append(states[visual.digest])
                total += visual.tokens
            first = starts[visual.digest]
            visual_index[row, place : place + visual.tokens] = np.arange(
                first, first + visual.tokens
            )
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "visual_embeds": np.concatenate(parts),
        "visual_index": visual_index,
        "embed_index": np.array([p.disc_index for p in prompts], dtype=np.int64),
    }


def _patches(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Patch numbers of merged tokens, four each."""
    return np.ravel(order[:, None] * MERGE**2 + np.arange(MERGE**2))
