"""M-RoPE positions of one prompt, computed from its layout and never from model state.

transformers keeps `rope_deltas` on the model (not thread-safe), changed how they relate to left
padding between 4.57 and 5.x, and from 5.x on advances by max(h, w) after a video instead of by
max(t, h, w), so that a long video of small frames overlaps the text behind it. The checkpoints were
trained with the rule below: Qwen2-VL (arXiv 2409.12191, section 2.1) as in transformers 4.49-4.57
`get_rope_index`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ume_qwen.patches import VisualInput
from ume_qwen.sizes import MERGE

Positions = npt.NDArray[np.int64]


def mrope_positions(
    spans: Sequence[int | VisualInput], tokens_per_second: float | None = None
) -> Positions:
    """Positions of a prompt, int64 (3, tokens): temporal, height, width.

    Args:
        spans: the prompt in order; an int is a run of that many text tokens.
        tokens_per_second: Qwen2.5-VL's temporal scale; None for Qwen2-VL, whose temporal position
            is the temporal patch's number.
    """
    sizes = [span if isinstance(span, int) else span.tokens for span in spans]
    out = np.empty((3, sum(sizes)), dtype=np.int64)
    at = start = 0
    for span, size in zip(spans, sizes, strict=True):
        block = out[:, at : at + size]
        at += size
        if isinstance(span, int):
            block[:] = np.arange(start, start + span)
            start += span
            continue
        t, h, w = span.grid[0], span.grid[1] // MERGE, span.grid[2] // MERGE
        step = 1.0 if tokens_per_second is None else span.seconds_per_grid * tokens_per_second
        # float32 and truncation, as torch computes it upstream.
        times = (np.arange(t, dtype=np.float32) * np.float32(step)).astype(np.int64)
        block[0] = np.repeat(times, h * w)
        block[1] = np.tile(np.repeat(np.arange(h), w), t)
        block[2] = np.tile(np.arange(w), t * h)
        block += start
        start += max(int(times[-1]), h - 1, w - 1) + 1
    return out
