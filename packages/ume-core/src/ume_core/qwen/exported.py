"""What the engines on an exported directory do alike; a subclass runs the two graphs."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ume_core.cache import ByteCache
from ume_core.errors import CheckpointError, InvalidOption, LimitExceeded, UmeError
from ume_core.loading import LoadOptions
from ume_core.qwen.checkpoint import find_checkpoint
from ume_core.qwen.embedder import QwenEmbedder, unit
from ume_core.qwen.graphs import TEXT, VISION, Arrays, Floats, VisionLayout, text_arrays
from ume_core.qwen.manifest import Manifest
from ume_core.qwen.pack import build_pack
from ume_core.qwen.patches import VisualInput
from ume_core.qwen.prefix import Prefix
from ume_core.qwen.render import Rendered
from ume_core.results import Vectors
from ume_core.signature import Mode

_DISC: frozenset[Mode] = frozenset({"disc"})
# Patches of one vision call: images of one size run together up to here, which bounds the memory of
# their attention (patches squared).
_CALL_PATCHES = 4096
# Qwen2.5-VL's window bias is a number for every pair of patches: 1 GB at this many.
_WINDOWED_PATCHES = 16_384


class ExportedEmbedder(QwenEmbedder):
    """Disc vectors of an exported directory.

    Attributes:
        directory: it. manifest: what it says about itself.
        pack_tokens: most tokens of several prompts together: their mask is quadratic in them.
    """

    modes = _DISC
    pack_tokens = 512

    def __init__(
        self, model: str | Path, options: LoadOptions | None = None, *, unchecked: bool = False
    ) -> None:
        """Read a directory that `ume export` wrote.

        Args:
            unchecked: load it before its parity was checked; only that check itself does.

        Raises:
            CheckpointError: it is none, or damaged. InvalidOption: a dtype was asked for that the
                export does not have, or a setting that exported graphs do not.
        """
        options = options or LoadOptions()
        self.directory = Path(model)
        if not self.directory.is_dir():
            raise CheckpointError(
                f"{model} is not an exported directory",
                fix=f"run: ume export {model} DIR, and load DIR",
            )
        self.manifest = Manifest.read(self.directory, unchecked=unchecked)
        name = options.name or self.manifest.model
        checkpoint = find_checkpoint(self.directory, name=name, weights=False)
        dtype = self.manifest.precision
        if options.dtype not in ("auto", dtype):
            raise InvalidOption(
                f"{self.directory} was exported in {dtype}, not {options.dtype}",
                fix=f"export it again with --precision {options.dtype}",
            )
        if options.invariant:
            raise InvalidOption("this engine has no invariant setting", fix="use engine='torch'")
        super().__init__(
            checkpoint, options, dtype=self.arithmetic(dtype), weights=self.manifest.weights
        )
        self._layout = VisionLayout.of(checkpoint.config)
        self._prefix = Prefix.from_json(self.manifest.prefix)
        self._held: dict[bytes, int] = {}  # by head key; there are as many as kinds of prompts
        self._states = ByteCache[bytes, Floats](options.media_cache_bytes, lambda a: a.nbytes)

    @abstractmethod
    def run_graph(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output. Called by several threads at once.

        Args:
            graph: `VISION` or `TEXT`. arrays: its inputs, as `ume_core.qwen.graphs` makes them.
        """

    def arithmetic(self, precision: str) -> str:
        """What signatures call the arithmetic of an export in this precision."""
        return precision

    @abstractmethod
    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may succeed."""

    def _check_room(self, rendered: Rendered, budget: int) -> None:
        super()._check_room(rendered, budget)
        for visual in rendered.media if self._layout.window else ():
            if visual.grid[1] * visual.grid[2] > _WINDOWED_PATCHES:
                raise LimitExceeded(
                    f"a picture has {visual.grid[1] * visual.grid[2]:,} patches; the exported "
                    f"windows take {_WINDOWED_PATCHES:,} at most",
                    fix="lower max_pixels, or use engine='torch'",
                )

    def fits(self, group: Sequence[Rendered], more: Rendered) -> bool:
        """Up to `pack_tokens`."""
        tokens, _ = self.packed_tokens([*group, more])
        return tokens <= min(self.pack_tokens, self.options.batch_tokens)

    def packed_tokens(self, prompts: Sequence[Rendered]) -> tuple[int, int]:
        """What is computed of these prompts together at most: tokens, and visual states taken."""
        tokens = visual = 0
        heads: dict[bytes, int] = {}
        for prompt in prompts:
            tokens += len(prompt.ids) - prompt.head
            heads[prompt.head_key] = prompt.head - self.held(prompt)
            visual += sum(media.tokens for media in self.computed_media(prompt))
        return tokens + sum(heads.values()), visual

    def held(self, prompt: Rendered) -> int:
        """How many of a prompt's first tokens the text graph holds the keys and values of."""
        key = prompt.head_key
        if key not in self._held:
            self._held[key] = prompt.head if self._prefix.begins(prompt) else 0
        return self._held[key]

    def computed_media(self, prompt: Rendered) -> list[VisualInput]:
        """A prompt's media but for those whose keys and values the text graph holds."""
        held = self.held(prompt)
        starts = zip(prompt.media_starts, prompt.media, strict=True)
        return [media for start, media in starts if start >= held]

    def disc_vectors(self, prompts: Sequence[Rendered]) -> list[Vectors | UmeError]:
        """One pack; halved where memory does not suffice."""
        try:
            stored = {p.head_key for p in prompts if self.held(p)}
            pack = build_pack(prompts, stored=stored)
            arrays = text_arrays(pack, self._visual_states(pack.media()), hidden=self.dimensions)
            return list(unit(self.run_graph(TEXT, arrays)))
        except Exception as error:
            if not (isinstance(error, MemoryError) or self.is_out_of_memory(error)):
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

    def _visual_states(self, media: Sequence[VisualInput]) -> dict[bytes, Floats]:
        """States of every distinct image and video, those of one size together."""
        found: dict[bytes, Floats] = {}
        sizes: dict[tuple[int, int], dict[bytes, VisualInput]] = defaultdict(dict)
        for visual in media:
            kept = self._states.get(visual.digest)
            if kept is not None:
                found[visual.digest] = kept
            else:
                sizes[visual.grid[1:]][visual.digest] = visual
        for distinct in sizes.values():
            for part in _calls(list(distinct.values())):
                output = self.run_graph(VISION, self._layout.arrays(part))
                for visual, states in zip(part, self._layout.states(part, output), strict=True):
                    found[visual.digest] = np.ascontiguousarray(states)
                    self._states.put(visual.digest, found[visual.digest])
        return found


def _calls(media: list[VisualInput]) -> list[list[VisualInput]]:
    """Images of one size in groups of bounded patches, at least one each."""
    groups: list[list[VisualInput]] = []
    held = _CALL_PATCHES
    for visual in media:
        if held + len(visual.patches) > _CALL_PATCHES:
            groups.append([])
            held = 0
        groups[-1].append(visual)
        held += len(visual.patches)
    return groups
