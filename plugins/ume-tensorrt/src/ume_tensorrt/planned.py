"""Requests on engines with profiles: what fits, at which point it runs, how it is split.

Everything but TensorRT itself, so that it can be tested against any runtime of the same graphs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ume_core.errors import LimitExceeded
from ume_core.loading import LoadOptions
from ume_core.qwen.exported import ExportedEmbedder
from ume_core.qwen.graphs import TEXT, VISION, Arrays, Floats
from ume_core.qwen.render import Rendered
from ume_tensorrt.manifest import rebuild
from ume_tensorrt.profiles import Point, Profiles, Sizes, choose, most_of, pad, sizes_of

NO_PROFILE = "no profile of the engines takes"


class PlannedEmbedder(ExportedEmbedder):
    """An exported directory on engines that take what their profiles admit.

    Attributes:
        profiles: of the engines.
    """

    profiles: Profiles
    pack_tokens = 1 << 20  # the profiles bound it

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        *,
        profiles: Profiles,
        unchecked: bool = False,
    ) -> None:
        """See `ExportedEmbedder`."""
        super().__init__(model, options, unchecked=unchecked)
        self.profiles = profiles

    @abstractmethod
    def run_point(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """The output of arrays that were padded to the point's sizes."""

    def run_graph(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output; images beyond a profile's in several runs."""
        inputs = self.manifest.inputs[graph]
        sizes = sizes_of(graph, inputs, arrays)
        point = choose(graph, self.profiles[graph], sizes)
        if point is not None:
            real = sizes["rows" if graph == TEXT else "images"]
            return self.run_point(graph, point, pad(inputs, arrays, point))[:real]
        most = most_of(self.profiles[graph], "images", sizes) if graph == VISION else 0
        if most == 0:
            raise LimitExceeded(f"{NO_PROFILE} {sizes}", fix=self._wider())
        pixels = arrays["pixel_values"]
        parts = [pixels[n : n + most] for n in range(0, len(pixels), most)]
        return np.concatenate([self.run_graph(graph, arrays | {"pixel_values": p}) for p in parts])

    def fits(self, group: Sequence[Rendered], more: Rendered) -> bool:
        """As all exported engines, and within one profile."""
        return super().fits(group, more) and (
            choose(TEXT, self.profiles[TEXT], self._sizes([*group, more])) is not None
        )

    def _check_room(self, rendered: Rendered, budget: int) -> None:
        super()._check_room(rendered, budget)
        for visual in self.computed_media(rendered):
            patches = visual.grid[1] * visual.grid[2]
            if choose(VISION, self.profiles[VISION], {"images": 1, "patches": patches}) is None:
                raise LimitExceeded(
                    f"{NO_PROFILE} a picture of {patches:,} patches",
                    fix=f"change min_pixels or max_pixels, or {self._wider()}",
                )
        sizes = self._sizes([rendered.until(rendered.disc_index + 1)])
        if choose(TEXT, self.profiles[TEXT], sizes) is None:
            raise LimitExceeded(
                f"{NO_PROFILE} a prompt of {sizes['tokens']:,} tokens and "
                f"{sizes['visual_tokens'] - 1:,} visual tokens",
                fix=f"shorten it or lower max_pixels, or {self._wider()}",
            )

    def _wider(self) -> str:
        return f"build with wider ones: {rebuild(self.directory)} --profiles FILE"

    def _sizes(self, prompts: Sequence[Rendered]) -> Sizes:
        """At most what these prompts together take."""
        tokens, visual = self.packed_tokens(prompts)
        return {"rows": len(prompts), "tokens": tokens, "visual_tokens": 1 + visual}
