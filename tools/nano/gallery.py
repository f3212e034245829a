"""Make the quickstart's gallery: `python -m tools.nano.gallery` (the result is committed).

Drawings from Noto (Apache-2.0) and Fluent (MIT), scenes composed of them in combinations that
training never showed, and mp4 clips.
"""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
from PIL import Image as PILImage

from tools.nano import drawing
from tools.nano.evaluate import CACHE, held_out_scenes
from tools.nano.recipe import Scene, draw_scene
from tools.nano.sprites import SpriteSheet, load_sprites

GALLERY = Path(__file__).resolve().parents[1] / "gallery"
SIDE = 168
SINGLES = (
    "red apple,dog,cat,bicycle,automobile,bus,motorcycle,horse,elephant,owl,penguin,crocodile,"
    "banana,grapes,pizza,hamburger,hot beverage,beer mug,sun,cloud,snowman,rainbow,house,hospital,"
    "castle,umbrella,t-shirt,crown,soccer ball,laptop,telephone,light bulb,book,pencil,key,clock,"
    "red heart,grinning face,crying face,pizza,rocket,locomotive,tractor,camel,lion,rabbit,"
    "strawberry,carrot,bread,glasses,backpack,camera,television,scissors,moon,cactus"
)
CLIPS = (("dog", "moving left"), ("automobile", "moving right"), ("owl", "moving down"),
         ("red apple", "growing"), ("sun", "shrinking"), ("locomotive", "moving up"))  # fmt: skip


def main() -> None:
    """Write the gallery anew."""
    sheet = load_sprites(CACHE)
    GALLERY.mkdir(exist_ok=True)
    for old in GALLERY.glob("*.*"):
        if old.suffix in (".png", ".mp4"):
            old.unlink()
    rng = np.random.default_rng(7)
    by_label = {c.label: i for i, c in enumerate(sheet.concepts) if c.kind == "emoji"}
    for label in dict.fromkeys(SINGLES.split(",")):
        if label in by_label:
            rgba = drawing.sprite(sheet, by_label[label], _style(sheet, by_label[label]))
            save(label, drawing.single(rgba, SIDE, rng, drawing.COLOURS["white"]))
    for scene in held_out_scenes(sheet, 18):
        styles = _style(sheet, scene.first), _style(sheet, scene.second)
        save(scene.caption(sheet), draw_scene(sheet, scene, *styles, SIDE, rng))
    for label, motion in CLIPS:
        concept = by_label[label]
        rgba = drawing.sprite(sheet, concept, _style(sheet, concept))
        spec = Scene("clip", concept, concept, motion)
        frames = drawing.clip(rgba, motion, SIDE, rng, drawing.COLOURS["white"])
        _film(_name(spec.caption(sheet)), frames)


def save(caption: str, canvas: drawing.Floats) -> None:
    """One PNG, named by its caption."""
    PILImage.fromarray(drawing.to_bytes(canvas)).save(GALLERY / f"{_name(caption)}.png")


def _film(name: str, frames: list[drawing.Floats]) -> None:
    """An mp4 that shows each of the four frames for half a second."""
    with av.open(str(GALLERY / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for canvas in frames:
            for _ in range(4):
                picture = PILImage.fromarray(drawing.to_bytes(canvas))
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def _style(sheet: SpriteSheet, concept: int) -> str:
    """The first of the two sets with simple licences that has the concept."""
    rows = sheet.rows[concept]
    return next(s for s in ("fluent", "noto", "fluent-flat") if s in rows)


def _name(caption: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")


if __name__ == "__main__":
    main()
