"""What is embedded: seeded inputs of stated sizes, in our spelling and in the recipe's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from ume_core.items import Image, Item, Part, Text, Video

_WORDS = (
    "a the dog cat bird red blue green big small house tree car street city night day sun water "
    "man woman child holds runs sits above below near far old new open closed stone wood paper "
    "light dark photo drawing of in on with and many two three left right morning evening river"
).split()
ROWS = {"1 row": 1, "8 rows": 8, "32 rows": 32}


@dataclass(frozen=True)
class Sample:
    """One input.

    Attributes:
        content: media and one final text, as the recipe's messages spell them.
    """

    content: list[dict[str, Any]]

    @property
    def item(self) -> Item:
        """In our spelling."""
        parts: list[Part] = []
        for element in self.content:
            if element["type"] == "image":
                parts.append(Image(element["image"]))
            elif element["type"] == "video":
                parts.append(Video(element["video"]))
            elif element["text"]:
                parts.append(Text(element["text"]))
        return Item(tuple(parts))


@dataclass(frozen=True)
class Case:
    """A row of the report.

    Attributes:
        kind: `disc`, `gen`, `sample` or `rows` (gen of equal lengths, beside vLLM).
        lengths: generated tokens per sample (gen), or of every one (sample).
    """

    name: str
    kind: str
    samples: list[Sample]
    lengths: tuple[int, ...] = ()


def text(words: int, rng: np.random.Generator) -> Sample:
    """A text of that many words."""
    return Sample([{"type": "text", "text": " ".join(rng.choice(_WORDS, words))}])


def picture(tokens: int, rng: np.random.Generator) -> PILImage.Image:
    """A picture that takes `tokens` visual tokens, as square as they allow."""
    rows = next(n for n in range(int(tokens**0.5), 0, -1) if tokens % n == 0)
    columns = tokens // rows
    coarse = rng.integers(0, 256, (2 * rows, 2 * columns, 3), dtype=np.uint8)
    size = (28 * columns, 28 * rows)
    return PILImage.fromarray(coarse).resize(size, PILImage.Resampling.BICUBIC)


def image(tokens: int, rng: np.random.Generator, words: str = "What is shown?") -> Sample:
    """A picture and a question."""
    return Sample(
        [{"type": "image", "image": picture(tokens, rng)}, {"type": "text", "text": words}]
    )


def clip(frames: int, rng: np.random.Generator) -> Sample:
    """A video given as frames of 64 tokens."""
    listed = [picture(64, rng) for _ in range(frames)]
    return Sample([{"type": "video", "video": listed}, {"type": "text", "text": "What happens?"}])


def make_cases(seed: int, *, full: bool) -> list[Case]:
    """The report's cases; `seed` changes with every round, so that no cache helps."""
    rng = np.random.default_rng(seed)
    # On two cores a 2B round of the full sizes takes half an hour: smaller pictures, shorter texts
    # and half of the answers' lengths there, unless `full`.
    words = (5, 300, 20, 80, 10, 150, 40, 30) if full else (5, 150, 20, 80, 10, 40)
    tokens = (64, 256, 1024) if full else (64, 144, 256)
    lengths = (100, 400, 150, 250, 300, 200, 350, 120)
    if not full:
        lengths = tuple(n // 2 for n in lengths)
    return [
        Case("texts", "disc", [text(n, rng) for n in words]),
        Case("images", "disc", [image(n, rng) for n in tokens]),
        Case(
            "mixed", "disc",
            [text(30, rng), image(64, rng), text(60, rng), text(8, rng),
             Sample([*image(36, rng).content[:1], *image(100, rng).content[:1],
                     {"type": "text", "text": "Which one?"}])],
        ),
        Case("video", "disc", [clip(8, rng)]),
        Case("gen", "gen", [image(64, rng) for _ in lengths], lengths),
        Case("sampling", "sample", [image(64, rng)], (lengths[0],)),
    ]  # fmt: skip


def make_rows(seed: int) -> list[Case]:
    """Cases of 1, 8 and 32 answers of 48 tokens at once, to small pictures."""
    rng = np.random.default_rng(seed)
    return [
        Case(name, "rows", [image(16, rng) for _ in range(count)], (48,) * count)
        for name, count in ROWS.items()
    ]
