"""Requests on engines with optimization profiles: what fits, at which point, how it is split.

Everything but TensorRT itself, so that it can be tested against any runtime of the same graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ume_core.errors import LimitExceeded
from ume_qwen.exported.embedder import PackSizes
from ume_qwen.exported.inputs import TEXT, VISION, Arrays, Floats
from ume_tensorrt.manifest import rebuild
from ume_tensorrt.profiles import (
    Inputs,
    Point,
    Profiles,
    Sizes,
    choose,
    most_of,
    pad,
    sizes_of,
)

NO_PROFILE = "no profile of the engines takes"


class PointRunner(Protocol):
    """Computes at fixed sizes. Thread-safe."""

    def run(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """The output of arrays that were padded to the point's sizes."""
        ...


class ProfiledRunner:
    """A `GraphRunner` on engines that take what their profiles admit.

    Attributes:
        points: computes at one point of a profile.
        profiles: the engines' profiles.
        pack_tokens: no bound of its own; the profiles have one.
    """

    pack_tokens = 1 << 20

    def __init__(
        self, points: PointRunner, profiles: Profiles, inputs: Mapping[str, Inputs], directory: Path
    ) -> None:
        """Put a runner together.

        Args:
            points: computes at one point of a profile.
            profiles: what the engines take.
            inputs: each graph's inputs, as in the export's manifest.
            directory: the exported directory, for messages.
        """
        self.points, self.profiles = points, profiles
        self._inputs, self._directory = inputs, directory

    def run(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output; images beyond a profile's in several runs."""
        inputs = self._inputs[graph]
        sizes = sizes_of(graph, inputs, arrays)
        point = choose(graph, self.profiles[graph], sizes)
        if point is not None:
            real = sizes["rows" if graph == TEXT else "images"]
            return self.points.run(graph, point, pad(inputs, arrays, point))[:real]
        most = most_of(self.profiles[graph], "images", sizes) if graph == VISION else 0
        if most == 0:
            raise LimitExceeded(f"{NO_PROFILE} {sizes}", fix=self._wider())
        pixels = arrays["pixel_values"]
        parts = [pixels[n : n + most] for n in range(0, len(pixels), most)]
        return np.concatenate([self.run(graph, arrays | {"pixel_values": p}) for p in parts])

    def fits(self, sizes: PackSizes) -> bool:
        """Whether one profile takes the pack."""
        return choose(TEXT, self.profiles[TEXT], _text_sizes(sizes)) is not None

    def check(self, sizes: PackSizes) -> None:
        """Refuse a prompt that no profile takes, alone."""
        for patches in sizes.patches:
            if choose(VISION, self.profiles[VISION], {"images": 1, "patches": patches}) is None:
                raise LimitExceeded(
                    f"{NO_PROFILE} an image of {patches:,} patches",
                    fix=f"change min_pixels or max_pixels, or {self._wider()}",
                )
        if not self.fits(sizes):
            raise LimitExceeded(
                f"{NO_PROFILE} a prompt of {sizes.tokens:,} tokens and "
                f"{sizes.visual_tokens:,} visual tokens",
                fix=f"shorten it or lower max_pixels, or {self._wider()}",
            )

    def is_out_of_memory(self, error: Exception) -> bool:  # noqa: ARG002
        """No: CUDA's is raised as MemoryError, which every exported engine knows."""
        return False

    def _wider(self) -> str:
        return f"build with wider ones: {rebuild(self._directory)} --profiles FILE"


def _text_sizes(sizes: PackSizes) -> Sizes:
    # Row 0 of the visual states stands for "no visual".
    return {"rows": sizes.rows, "tokens": sizes.tokens, "visual_tokens": 1 + sizes.visual_tokens}
