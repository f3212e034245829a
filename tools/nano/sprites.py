"""Rendering every concept's SVGs once, into arrays that training reads from memory.

Colour art becomes RGBA; icons are one colour and become an alpha mask that is tinted when drawn.
"""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from tools.nano.concepts import Concept, load_concepts
from tools.nano.sources import WIDER, fetch_sources, wider_style

SIDE = 96
_ICON_STYLES = frozenset(
    ("tabler", "lucide", "mdi", "game-icons", *(wider_style(s) for s in WIDER))
)

Bytes = npt.NDArray[np.uint8]


@dataclass
class SpriteSheet:
    """All concepts and their pictures.

    Attributes:
        concepts: without SVGs; `rows[i]` maps style -> row of `colour` or `mask`.
        colour: uint8 (n, 96, 96, 4).
        mask: uint8 (m, 96, 96), the alpha of one-colour icons.
    """

    concepts: list[Concept]
    rows: list[dict[str, int]]
    colour: Bytes
    mask: Bytes

    def is_mask(self, style: str) -> bool:
        """Whether the style's pictures are in `mask`."""
        return style in _ICON_STYLES


def load_sprites(cache: Path, wider: bool = False) -> SpriteSheet:
    """The sprites below `cache`, rendered first where that has not been done.

    Args:
        cache: a directory for one of the two selections, not for both.
        wider: take the icons of `WIDER` too.
    """
    index = cache / "sprites.json"
    if not index.is_file():
        _render_all(cache, wider)
    table = json.loads(index.read_text("utf-8"))
    concepts = [
        Concept(r["label"], r["keywords"], r["topic"], r["kind"], r["unseen"]) for r in table
    ]
    colour = np.load(cache / "colour.npy", mmap_mode="r")
    mask = np.load(cache / "mask.npy", mmap_mode="r")
    return SpriteSheet(concepts, [r["rows"] for r in table], colour, mask)


def _render_all(cache: Path, wider: bool) -> None:
    modules = fetch_sources(cache, wider)
    concepts = load_concepts(modules, wider)
    jobs = [(i, style, svg) for i, c in enumerate(concepts) for style, svg in c.svg.items()]
    print(f"rendering {len(jobs)} pictures of {len(concepts)} concepts", file=sys.stderr)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        images = list(pool.map(_render, [svg for _, _, svg in jobs], chunksize=200))
    rows: list[dict[str, int]] = [{} for _ in concepts]
    colour: list[Bytes] = []
    mask: list[Bytes] = []
    for (index, style, _), image in zip(jobs, images, strict=True):
        if image is None or not image[..., 3].any():
            continue
        if style in _ICON_STYLES:
            rows[index][style] = len(mask)
            mask.append(image[..., 3])
        else:
            rows[index][style] = len(colour)
            colour.append(image)
    np.save(cache / "colour.npy", np.stack(colour))
    np.save(cache / "mask.npy", np.stack(mask))
    table = [
        {
            "label": c.label, "keywords": c.keywords, "topic": c.topic, "kind": c.kind,
            "unseen": c.unseen, "rows": r,
        }
        for c, r in zip(concepts, rows, strict=True) if r
    ]  # fmt: skip
    (cache / "sprites.json").write_text(json.dumps(table), "utf-8")


def _render(svg: str) -> Bytes | None:
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))
    except Exception as error:  # resvg's own errors are plain strings
        print(f"left out a picture: {error}", file=sys.stderr)
        return None
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    square = Image.new("RGBA", (SIDE, SIDE))
    image.thumbnail((SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(square)
