"""Requests on engines with profiles: what fits, at which point it runs, how it is split.

Everything but TensorRT itself, so that it can be tested against any runtime of the same graphs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ume_core.errors import LimitExceeded
from ume_core.loading import LoadOptions
from ume_core.qwen.exported import ExportedEmbedder
from ume_core.qwen.graphs import TEXT, VISION, Arrays, Floats
from ume_core.qwen.render import Rendered
from ume_tensorrt.manifest import rebuild
from ume_tensorrt.profiles import Point, Profiles, Sizes, choose, most_of, pad, sizes_of

_BATCH_AXIS = {VISION: "images", TEXT: "rows"}


class PlannedEmbedder(ExportedEmbedder):
    """An exported directory on engines that take what their profiles admit.

    Attributes:
        profiles: of the engines.
    """

    profiles: Profiles

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
        """One graph's output, in as many runs as the profiles' batches make of it."""
        inputs, axis = self.manifest.inputs[graph], _BATCH_AXIS[graph]
        sizes = sizes_of(graph, inputs, arrays)
        point = choose(graph, self.profiles[graph], sizes)
        if point is not None:
            return self.run_point(graph, point, pad(inputs, arrays, point))[: sizes[axis]]
        most = most_of(self.profiles[graph], axis, sizes)
        if most == 0:
            raise LimitExceeded(f"no profile of the engines takes {sizes}", fix=self._wider())
        parts = [self._rows(graph, arrays, n, n + most) for n in range(0, sizes[axis], most)]
        return np.concatenate([self.run_graph(graph, part) for part in parts])

    def fits(self, group: Sequence[Rendered], more: Rendered) -> bool:
        """As all exported engines, and within one profile."""
        return super().fits(group, more) and (
            choose(TEXT, self.profiles[TEXT], _sizes([*group, more])) is not None
        )

    def _check_room(self, rendered: Rendered, budget: int) -> None:
        super()._check_room(rendered, budget)
        for visual in rendered.media:
            patches = visual.grid[1] * visual.grid[2]
            if choose(VISION, self.profiles[VISION], {"images": 1, "patches": patches}) is None:
                raise LimitExceeded(
                    f"a picture has {patches:,} patches, which no profile of the engines takes",
                    fix=f"change min_pixels or max_pixels, or {self._wider()}",
                )
        sizes = _sizes([rendered.until(rendered.disc_index + 1)])
        if choose(TEXT, self.profiles[TEXT], sizes) is None:
            raise LimitExceeded(
                f"the prompt has {sizes['tokens']:,} tokens and {sizes['visual_tokens'] - 1:,} "
                "visual tokens, which no profile of the engines takes",
                fix=f"shorten it or lower max_pixels, or {self._wider()}",
            )

    def _rows(self, graph: str, arrays: Arrays, start: int, end: int) -> Arrays:
        axis = _BATCH_AXIS[graph]
        cut: Arrays = {}
        for name, (_, axes) in self.manifest.inputs[graph].items():
            index: list[Any] = [slice(start, end) if a == axis else slice(None) for a in axes]
            cut[name] = arrays[name][tuple(index)]
        return cut

    def _wider(self) -> str:
        return f"build with wider ones: {rebuild(self.directory)} --profiles FILE"


def _sizes(prompts: Sequence[Rendered]) -> Sizes:
    return {
        "rows": len(prompts),
        "tokens": max(len(p.ids) for p in prompts),
        "visual_tokens": 1 + sum(m.tokens for p in prompts for m in p.media),
    }
