"""Disc vectors of an exported directory, whatever runs its two graphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ume_core.errors import (
    CheckpointError,
    EngineUnavailable,
    InvalidOption,
    LimitExceeded,
    UmeError,
)
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_core.signature import Mode
from ume_qwen.cache import ByteCache
from ume_qwen.checkpoint import Checkpoint, find_checkpoint
from ume_qwen.embedder import QwenEmbedder, unit
from ume_qwen.exported.inputs import TEXT, VISION, Arrays, Floats, VisionLayout, text_arrays
from ume_qwen.exported.manifest import Manifest
from ume_qwen.exported.prefix import Prefix
from ume_qwen.formats import has_weights_beside
from ume_qwen.pack import build_pack
from ume_qwen.patches import VisualInput
from ume_qwen.render import RenderedPrompt

# Patches of one vision call: images of one size run together up to here, which bounds the memory of
# their attention (patches squared).
_CALL_PATCHES = 4096
# Qwen2.5-VL's window bias is a number for every pair of patches: 1 GB at this many.
_WINDOWED_PATCHES = 16_384


@dataclass(frozen=True)
class Export:
    """A directory that `ume export` wrote.

    Attributes:
        directory: where it is.
        manifest: its parsed `ume_export.json`.
        checkpoint: the files beside its graphs.
    """

    directory: Path
    manifest: Manifest
    checkpoint: Checkpoint

    @classmethod
    def open(cls, model: str | Path, options: LoadOptions, *, unchecked: bool = False) -> Export:
        """Read a directory.

        Args:
            model: the directory.
            options: how it is loaded.
            unchecked: accept one before its parity was checked; only that check itself does.

        Raises:
            CheckpointError: it is not an exported directory, or it is damaged.
            InvalidOption: a dtype was asked for that the export does not have.
            EngineUnavailable: the same where the weights stand beside the graphs: an engine that
                loads them has every dtype.
        """
        directory = Path(model)
        if not directory.is_dir():
            raise CheckpointError(
                f"{model} is not an exported directory",
                fix=f"run: ume export {model} DIR, and load DIR",
            )
        manifest = Manifest.read(directory, unchecked=unchecked)
        if options.dtype not in ("auto", manifest.precision):
            refusal = EngineUnavailable if has_weights_beside(directory) else InvalidOption
            raise refusal(
                f"{directory} was exported in {manifest.precision}, not {options.dtype}",
                fix=f"export it again with -o precision={options.dtype}",
            )
        name = options.name or manifest.model
        return cls(directory, manifest, find_checkpoint(directory, name=name, weights=False))


@dataclass(frozen=True)
class PackSizes:
    """An upper bound on what some prompts take when they share a pack.

    Attributes:
        rows: prompts.
        tokens: tokens that are computed.
        visual_tokens: states of images and videos among them.
        patches: patches per frame of every image and video that is computed.
    """

    rows: int
    tokens: int
    visual_tokens: int
    patches: tuple[int, ...]


class GraphRunner(Protocol):
    """Runs the two graphs of an export. Thread-safe."""

    @property
    def pack_tokens(self) -> int:
        """Most tokens of several prompts together: their mask is quadratic in them."""
        ...

    def run(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output.

        Args:
            graph: `VISION` or `TEXT`.
            arrays: its inputs, as `ume_qwen.exported.inputs` makes them.
        """
        ...

    def fits(self, sizes: PackSizes) -> bool:
        """Whether prompts of these sizes may run together."""
        ...

    def check(self, sizes: PackSizes) -> None:
        """Refuse one prompt that cannot run at all.

        Raises:
            LimitExceeded: it is too large.
        """
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may succeed after this error."""
        ...


class ExportedEmbedder(QwenEmbedder):
    """Disc vectors of an exported directory.

    Attributes:
        name: the engine's name.
        export: the directory and what stands in it.
        runner: what runs its graphs.
    """

    modes: frozenset[Mode] = frozenset({"disc"})

    def __init__(
        self,
        name: str,
        export: Export,
        runner: GraphRunner,
        options: LoadOptions,
        *,
        arithmetic: str | None = None,
        uses_gpu: bool = False,
        media_cache_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        """Put an engine together.

        Args:
            name: its name.
            export: what it serves.
            runner: what runs the graphs.
            options: how it was loaded.
            arithmetic: what signatures call the arithmetic, where it is not the export's precision.
            uses_gpu: whether the runner computes on one.
            media_cache_bytes: bytes of visual states kept for images that come again.
        """
        self.name, self.export, self.runner = name, export, runner
        self.uses_gpu = uses_gpu
        super().__init__(
            export.checkpoint,
            options,
            dtype=arithmetic or export.manifest.precision,
            weights=export.manifest.weights,
        )
        self._layout = VisionLayout.of(export.checkpoint.config)
        self._prefix = Prefix.from_json(export.manifest.prefix)
        self._cached: dict[bytes, int] = {}  # by prefix key; there are as many as kinds of prompts
        self._states = ByteCache[bytes, Floats](media_cache_bytes, lambda a: a.nbytes)

    @property
    def state_bytes(self) -> int:
        """Bytes of the visual states kept."""
        return self._states.nbytes

    def check_room(self, rendered: RenderedPrompt, budget: int) -> None:
        """See `QwenEmbedder.check_room`; the runner has limits too."""
        super().check_room(rendered, budget)
        sizes = self.pack_sizes([rendered.until(rendered.disc_index + 1)])
        patches = max(sizes.patches, default=0)
        if self._layout.window and patches > _WINDOWED_PATCHES:
            raise LimitExceeded(
                f"an image has {patches:,} patches; the exported windows take at most "
                f"{_WINDOWED_PATCHES:,}",
                fix="lower max_pixels, or use an engine that loads the checkpoint itself",
            )
        self.runner.check(sizes)

    def fits(self, group: Sequence[RenderedPrompt], more: RenderedPrompt) -> bool:
        """Whether one more prompt may join the pack."""
        sizes = self.pack_sizes([*group, more])
        return sizes.tokens <= self.runner.pack_tokens and self.runner.fits(sizes)

    def pack_sizes(self, prompts: Sequence[RenderedPrompt]) -> PackSizes:
        """An upper bound on what these prompts take if they share a pack."""
        tokens = visual = 0
        patches: list[int] = []
        prefixes: dict[bytes, int] = {}
        for prompt in prompts:
            tokens += len(prompt.ids) - prompt.prefix
            prefixes[prompt.prefix_key] = prompt.prefix - self._cached_tokens(prompt)
            for media in self._computed_media(prompt):
                visual += media.tokens
                patches.append(media.grid[1] * media.grid[2])
        total = tokens + sum(prefixes.values())
        return PackSizes(len(prompts), total, visual, tuple(patches))

    def disc_vectors(self, prompts: Sequence[RenderedPrompt]) -> list[Vectors | UmeError]:
        """One pack; halved where memory does not suffice."""
        try:
            cached = {p.prefix_key for p in prompts if self._cached_tokens(p)}
            pack = build_pack(prompts, cached=cached)
            arrays = text_arrays(pack, self._visual_states(pack.media()), hidden=self.dimensions)
            return list(unit(self.runner.run(TEXT, arrays)))
        except Exception as error:
            if not (isinstance(error, MemoryError) or self.runner.is_out_of_memory(error)):
                raise
        if len(prompts) == 1:
            return [
                LimitExceeded(
                    f"the item's {len(prompts[0].ids):,} tokens do not fit in memory even alone",
                    fix="shorten it or lower max_pixels",
                )
            ]
        middle = len(prompts) // 2
        return [*self.disc_vectors(prompts[:middle]), *self.disc_vectors(prompts[middle:])]

    def _cached_tokens(self, prompt: RenderedPrompt) -> int:
        """How many of a prompt's first tokens have their keys and values in the text graph."""
        key = prompt.prefix_key
        if key not in self._cached:
            self._cached[key] = prompt.prefix if self._prefix.begins(prompt) else 0
        return self._cached[key]

    def _computed_media(self, prompt: RenderedPrompt) -> list[VisualInput]:
        """A prompt's media but for those whose keys and values are in the text graph."""
        cached = self._cached_tokens(prompt)
        starts = zip(prompt.media_starts, prompt.media, strict=True)
        return [media for start, media in starts if start >= cached]

    def _visual_states(self, media: Sequence[VisualInput]) -> dict[bytes, Floats]:
        """States of every distinct image and video, those of one size together."""
        found: dict[bytes, Floats] = {}
        sizes: dict[tuple[int, int], dict[bytes, VisualInput]] = defaultdict(dict)
        for visual in media:
            cached = self._states.get(visual.digest)
            if cached is not None:
                found[visual.digest] = cached
            else:
                sizes[visual.grid[1:]][visual.digest] = visual
        for distinct in sizes.values():
            for part in _calls(list(distinct.values())):
                output = self.runner.run(VISION, self._layout.arrays(part))
                for visual, states in zip(part, self._layout.states(part, output), strict=True):
                    found[visual.digest] = np.ascontiguousarray(states)
                    self._states.put(visual.digest, found[visual.digest])
        return found


def _calls(media: list[VisualInput]) -> list[list[VisualInput]]:
    """Images of one size in groups of bounded patches, at least one each."""
    groups: list[list[VisualInput]] = []
    patches = _CALL_PATCHES
    for visual in media:
        if patches + len(visual.patches) > _CALL_PATCHES:
            groups.append([])
            patches = 0
        groups[-1].append(visual)
        patches += len(visual.patches)
    return groups
