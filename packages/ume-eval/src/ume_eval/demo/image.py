"""The miniature's image tasks, in MMEB_Test_Instruct's columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ume_eval.demo.drawing import THINGS, Thing, draw
from ume_eval.demo.tables import write_set
from ume_eval.tasks import Source
from ume_eval.tasks.image import ANNOTATIONS

ROWS = 6
TOKEN = "<|image_1|>"
Row = dict[str, Any]


def build(data: Path) -> None:
    """Pictures below image-tasks/, rows below annotations/."""
    for thing in THINGS:
        path = data / "image-tasks" / _path(thing)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(thing).save(path)
        draw(thing, dx=0.1).save(path.with_name(f"moved-{path.name}"))
    makers: dict[str, Callable[[list[Thing]], Row]] = {
        "ImageNet-1K": _classes,
        "ChartQA": _question,
        "MSCOCO_i2t": _captions,
        "MSCOCO_t2i": _pictures,
        "WebQA": _captioned_pictures,
        "NIGHTS": _similar,
        "RefCOCO-Matching": _matching,
    }
    rows = {name: [maker(_turned(n)) for n in range(ROWS)] for name, maker in makers.items()}
    write_set(data, Source(ANNOTATIONS), rows)


def _turned(start: int) -> list[Thing]:
    """All things, another one first: the right one, as in the real rows."""
    return [*THINGS[5 * start :], *THINGS[: 5 * start]][:8]


def _path(thing: Thing, lead: str = "") -> str:
    return f"demo/{lead}{thing.name.replace(' ', '-')}.png"


def _row(
    inst: str, text: str, picture: str, tgt_inst: str, texts: list[str], pictures: list[str]
) -> Row:
    return {
        "qry_inst": inst, "qry_text": text, "qry_img_path": picture, "tgt_inst": tgt_inst,
        "tgt_text": texts, "tgt_img_path": pictures,
    }  # fmt: skip


def _classes(things: list[Thing]) -> Row:
    names = [t.name for t in things]
    lead = f"{TOKEN} Represent the given image for classification"
    return _row(lead, "", _path(things[0]), "", names, [""] * len(names))


def _question(things: list[Thing]) -> Row:
    colours = list(dict.fromkeys(t.colour for t in things))
    lead = f"{TOKEN} Represent the given image with the following question:"
    text = f"What colour is the {things[0].shape}?"
    return _row(lead, text, _path(things[0]), "", colours, [""] * len(colours))


def _captions(things: list[Thing]) -> Row:
    lead = f"{TOKEN} Find an image caption describing the given everyday image."
    captions = [f"A {t.name} on white." for t in things]
    return _row(lead, "", _path(things[0]), "", captions, [""] * len(captions))


def _pictures(things: list[Thing]) -> Row:
    lead = "Find me an everyday image that matches the given caption:"
    target = f"{TOKEN} Represent the given image."
    paths = [_path(t) for t in things]
    return _row(lead, f"A {things[0].name} on white.", "", target, [""] * len(paths), paths)


def _captioned_pictures(things: list[Thing]) -> Row:
    lead = f"{TOKEN} Find a Wikipedia image that answers this question:"
    target = f"{TOKEN} Represent the given Wikipedia image with related text information:"
    captions = [f"The {t.shape}, painted {t.colour}" for t in things]
    text = f"Which {things[0].shape} is {things[0].colour}?"
    return _row(lead, text, "", target, captions, [_path(t) for t in things])


def _similar(things: list[Thing]) -> Row:
    lead = f"{TOKEN} Find a day-to-day image that looks similar to the provided image."
    paths = [_path(t, "moved-") for t in things]
    target = f"{TOKEN} Represent the given image."
    return _row(lead, "", _path(things[0]), target, [""] * len(paths), paths)


def _matching(things: list[Thing]) -> Row:
    lead = f"{TOKEN} Select the portion of the image that follows the language expressions:"
    captions = [f'"{t.name}"' for t in things]
    return _row(lead, captions[0], _path(things[0]), lead, captions, [_path(t) for t in things])
