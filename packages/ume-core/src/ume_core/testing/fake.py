"""A fake embedder: the contract without a model, for the tests of adapters. Never a fallback."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ume_core.conventions import conventions_in_force
from ume_core.embedder import OnError, Progress, Sampling, prepare_items, require_mode
from ume_core.errors import UmeError
from ume_core.fetch import Access
from ume_core.items import Image, Item, ItemLike, Text
from ume_core.loading import LoadOptions
from ume_core.media import load_video, open_picture
from ume_core.results import EmbeddingResult, Record, Sample, Vectors
from ume_core.signature import Mode, Signature


class FakeEmbedder:
    """Vectors from hashes of the content: equal content, equal vector; nothing else is meant."""

    name = "fake"

    def __init__(
        self,
        dimensions: int = 8,
        modes: frozenset[Mode] = frozenset({"disc", "gen", "both"}),
        options: LoadOptions | None = None,
    ) -> None:
        self._dimensions = dimensions
        self._modes = modes
        self._options = options or LoadOptions()
        self._conventions = conventions_in_force(self._options, None)
        self._access = Access(self._options.policy, self._options.limits)

    @property
    def modes(self) -> frozenset[Mode]:
        """Modes it was told to have."""
        return self._modes

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._dimensions

    def signature(self, mode: Mode) -> Signature:
        """A signature that no real model has."""
        return Signature(
            model="fake",
            weights="fake",
            mode=mode,
            prompt=self._conventions.prompt.name,
            text_only=self._conventions.text_only,
            media_order=self._conventions.media_order,
            frame_lists=self._conventions.frame_lists,
            min_pixels=0,
            max_pixels=0,
            max_frames=self._options.limits.video_frames,
            dtype="float32",
            dimensions=self._dimensions,
        )

    def embed(
        self,
        items: Sequence[ItemLike],
        *,
        mode: Mode = "disc",
        instruction: str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> EmbeddingResult:
        """See `Embedder.embed`."""
        require_mode(mode, self._modes, self.name)
        del max_new_tokens  # its one token always fits
        read = prepare_items(items, self._read, instruction=instruction, on_error=on_error)
        count = sampling.n if sampling is not None else 1
        disc = np.full((len(read), self._dimensions), np.nan, dtype=np.float32)
        gen = np.full((len(read), count, self._dimensions), np.nan, dtype=np.float32)
        records: list[Record] = []
        for row, found in enumerate(read):
            if isinstance(found, UmeError):
                records.append(Record("failed", str(found)))
                continue
            digest, warnings = found
            disc[row] = self._vector(digest, "disc")
            for sample in range(count):
                seed = "" if sampling is None else f"{sampling.seed}/{sample}"
                gen[row, sample] = self._vector(digest, "gen" + seed)
            text = f"<think>{digest}</think><answer>{digest}<gen_emb>"
            made = Sample("ok", text, digest, digest, 1)
            samples = (made,) * count if mode != "disc" else ()
            records.append(Record("ok", None, 1, samples, warnings=warnings))
            if progress is not None:
                progress(row + 1, len(read))
        return EmbeddingResult(
            tuple(records),
            self.signature(mode),
            disc=disc if mode != "gen" else None,
            gen_samples=gen if mode != "disc" else None,
        )

    def _read(self, item: Item) -> tuple[str, tuple[str, ...]]:
        """A digest of the content, and what was noticed while it was read."""
        warnings: tuple[str, ...] = ()
        content = hashlib.sha256((item.instruction or "").encode())
        for part in item.parts:
            if isinstance(part, Text):
                content.update(b"t" + part.text.encode())
            elif isinstance(part, Image):
                picture = open_picture(part, self._access)
                warnings += picture.warnings
                content.update(b"i" + picture.image.tobytes())
            else:
                frames = load_video(part, self._access)
                warnings += frames.warnings
                for frame in frames.images:
                    content.update(b"v" + frame.tobytes())
        return content.hexdigest()[:12], warnings

    def _vector(self, digest: str, salt: str) -> Vectors:
        seed = int.from_bytes(hashlib.sha256(f"{digest}{salt}".encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self._dimensions)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
