"""How often ume-nano is right on the gallery: `python -m tools.nano.rates [--gen]`.

The README and the quickstart show examples from the gallery; these are the rates beside them. A
file's name says what it shows: `two-times-basketball.png` is found by "two times basketball".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import ume_core
from ume_core import Embedder, ItemLike

GALLERY = Path(__file__).resolve().parents[1] / "gallery"
FILES = sorted(p for p in GALLERY.iterdir() if p.suffix in (".png", ".mp4"))
CLIPS = [f for f in FILES if f.suffix == ".mp4"]
NAMES = [f.stem.replace("-", " ") for f in FILES]
TEXTS = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in NAMES]


def by_name(model: Embedder, top: int = 1) -> tuple[int, int]:
    """Files that are among the best `top` for their name, of how many (disc)."""
    files, names = (model.embed(list[ItemLike](x)).vectors("disc") for x in (FILES, NAMES))
    order = np.argsort(-(names @ files.T), axis=1)[:, :top]
    return sum(row in best for row, best in enumerate(order)), len(FILES)


def by_clip(model: Embedder) -> tuple[int, int]:
    """Clips whose nearest picture, single drawings only, shows the same thing (disc)."""
    stills = [f for f in FILES if f.suffix == ".png" and len(f.stem.split("-")) <= 2]
    pictures, clips = (model.embed(list[ItemLike](x)).vectors("disc") for x in (stills, CLIPS))
    best = np.argmax(clips @ pictures.T, axis=1)
    pairs = zip(CLIPS, best, strict=True)
    return sum(clip.stem.startswith(stills[b].stem) for clip, b in pairs), len(CLIPS)


def summaries(model: Embedder, items: Sequence[ItemLike]) -> tuple[int, int, list[str]]:
    """Items of the gallery's names whose gen summary is the name, of how many; and all said."""
    records = model.embed(items, mode="gen", max_new_tokens=64).records
    said = [record.summary.strip().rstrip(".") for record in records]
    return sum(map(str.__eq__, NAMES, said)), len(said), said


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gen", action="store_true", help="also the summaries")
    args = parser.parse_args()
    model = ume_core.load("ume-nano", device="cpu")
    for top in (1, 3, 5):
        found, count = by_name(model, top)
        print(f"by name, best {top}: {found} of {count}")
    found, count = by_clip(model)
    print(f"clip to picture: {found} of {count}")
    if args.gen:
        for what, items in (("a file", FILES), ("a text such as 'a dog'", TEXTS)):
            found, count, said = summaries(model, list[ItemLike](items))
            print(f"gen summary of {what} is the name: {found} of {count}")
            for name, text in zip(NAMES, said, strict=True):
                print(f"  {name}: {text}")


if __name__ == "__main__":
    main()
