"""A request of any sizes, so that every profile can be run before an engine is trusted."""

from __future__ import annotations

import numpy as np

from ume_qwen.exported.inputs import TEXT, Arrays, VisionLayout
from ume_qwen.patches import VisualInput
from ume_tensorrt.profiles import Inputs, Sizes


def probe(graph: str, inputs: Inputs, layout: VisionLayout, sizes: Sizes) -> Arrays:
    """Seeded arrays of exactly these sizes, for the engine and for what it is compared with.

    Vision: noise pictures two patches high. Text: one prompt over all tokens, read at `rows`
    places, whose first tokens are the visual ones.
    """
    rng = np.random.default_rng(7)
    if graph != TEXT:
        media: list[VisualInput] = []
        for number in range(sizes["images"]):
            patches = rng.standard_normal((sizes["patches"], inputs["pixel_values"][1][2]))
            shown = (1, 2, sizes["patches"] // 2)
            digest = number.to_bytes(16, "big")
            media.append(VisualInput(patches.astype(np.float32), shown, "image", digest))
        return layout.arrays(media)
    tokens, visual = sizes["tokens"], sizes["visual_tokens"]
    places = np.arange(tokens, dtype=np.int64)
    states = rng.standard_normal((visual, inputs["visual_embeds"][1][1])).astype(np.float32)
    states[0] = 0
    rows = np.linspace(tokens // 2, tokens - 1, sizes["rows"]).astype(np.int64)
    return {
        "input_ids": rng.integers(0, 256, tokens),
        "position_ids": np.stack([places, places // 2, places % 7]),
        "prefix_tokens": places,
        "place": places,
        "tree_start": np.ones(tokens, dtype=np.int64),
        "tree_end": np.full(tokens, 2, dtype=np.int64),
        "visual_embeds": states,
        "visual_index": np.where(places + 1 < visual, places + 1, 0),
        "embed_index": rows,
    }
