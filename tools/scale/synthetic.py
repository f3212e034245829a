"""A folder of any size that no disk has, and a model that gives its files vectors at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ume_core import EmbeddingResult, Record
from ume_core.results import Vectors
from ume_core.testing import FakeEmbedder
from ume_r1.index.listing import Listing
from ume_r1.index.reading import Content, Unreadable
from ume_r1.index.seen import Stamp

_CLUSTERS, _INNER = 2000, 64
_HOUR_NS = 3600 * 10**9


class Space:
    """Unit vectors in clusters: 64 dimensions that matter, turned into many, and noise."""

    def __init__(self, dimensions: int) -> None:
        rng = np.random.default_rng(0)
        self._turn = rng.standard_normal((_INNER, dimensions), np.float32) / 8
        self._centres = rng.standard_normal((_CLUSTERS, _INNER), np.float32)
        self.dimensions = dimensions

    def draw(self, rng: np.random.Generator, count: int) -> Vectors:
        """Vectors, float32 (count, dimensions)."""
        inner = self._centres[rng.integers(0, _CLUSTERS, count)]
        inner = inner + 0.6 * rng.standard_normal((count, _INNER), np.float32)
        noise = 0.1 * rng.standard_normal((count, self.dimensions), np.float32)
        vectors = inner @ self._turn + noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SyntheticFolder:
    """The first `count` texts `0123/000123456.txt`; each says its own number."""

    name, near = "/synthetic", True

    def __init__(self, count: int) -> None:
        self._count = count

    def check(self) -> None:
        """It is always there."""

    def list(self, leave_out: str = "") -> Listing:
        """All names."""
        del leave_out
        found = Listing()
        found.files.extend((name, ()) for name in names_of(range(self._count)))
        found.folders |= {"", *(f"{number:04}" for number in range(self._count // 1000 + 1))}
        return found

    def stamp(self, name: str) -> Stamp:
        """As of a file that nobody touches."""
        return Stamp(len(name), _HOUR_NS, _HOUR_NS)

    def digest(self, name: str) -> tuple[str, Stamp]:
        """Of its content."""
        return digest_of(name), self.stamp(name)

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, Content | Unreadable]]:
        """Their names."""
        for name in names:
            yield name, Content(name.encode(), *self.digest(name))


class SyntheticModel(FakeEmbedder):
    """Draws a text's vector by its number, some thousands a second."""

    def __init__(self, space: Space) -> None:
        super().__init__(dimensions=space.dimensions)
        self.space = space

    def embed(self, items: Any, **options: Any) -> EmbeddingResult:
        """One draw a chunk, whose first number is the seed."""
        del options
        seed = int(items[0].text[5:14])
        vectors = self.space.draw(np.random.default_rng(seed), len(items))
        return EmbeddingResult((Record("ok"),) * len(items), self.signature("disc"), disc=vectors)


def names_of(numbers: Iterable[int]) -> list[str]:
    """The names of the files of these numbers."""
    return [f"{number // 1000:04}/{number:09}.txt" for number in numbers]


def digest_of(name: str) -> str:
    """The digest of a file's content, which is its name."""
    return hashlib.sha256(name.encode()).hexdigest()
