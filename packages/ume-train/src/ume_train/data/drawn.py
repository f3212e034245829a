"""Small data of the published form, drawn here: coloured shapes, moving ones, and their words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ume_core.prompts import DISC_TOKEN, PROMPTS

SIDE = 84  # pixels; what ume-nano sees without resizing
_COLOURS = {
    "red": (214, 40, 40), "blue": (38, 84, 196), "green": (46, 140, 70), "yellow": (240, 190, 30),
    "black": (20, 20, 20), "orange": (240, 120, 30),
}  # fmt: skip
_SHAPES = {"circle": 24, "square": 4, "triangle": 3, "star": 5}
_PLACES = ("left", "right", "top", "bottom")
_FRAMES = 4


def draw_data(folder: Path, pairs: int, seed: int) -> tuple[Path, Path]:
    """Write `sft.json`, `rl.json` and their media, equal for equal arguments; returns both files.

    Half are pictures with their words, a quarter clips, a quarter words with other words.
    """
    sft, rl = folder / "sft.json", folder / "rl.json"
    stamp = folder / "made.json"
    made = {"pairs": pairs, "seed": seed, "form": 1}
    if stamp.is_file() and json.loads(stamp.read_text("utf-8")) == made:
        return sft, rl
    (folder / "media").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for number in range(pairs):
        colour, shape = str(rng.choice(list(_COLOURS))), str(rng.choice(list(_SHAPES)))
        place = str(rng.choice(_PLACES))
        kind = ("picture", "clip", "picture", "words")[number % 4]
        records.append(_record(folder / "media", number, kind, colour, shape, place, rng))
    sft.write_text(json.dumps(records, indent=1), "utf-8")
    rl.write_text(json.dumps([_rl(r) for r in records], indent=1), "utf-8")
    stamp.write_text(json.dumps(made), "utf-8")
    return sft, rl


def _record(
    media: Path, number: int, kind: str, colour: str, shape: str, place: str,
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    words = f"{colour} {shape} moving {place}" if kind == "clip" else f"{colour} {shape} {place}"
    query: dict[str, Any] = {}
    if kind == "picture":
        name = f"{number:05}.png"
        _draw(colour, shape, *_corner(place, 0.18, rng)).save(media / name)
        query["image"] = [name]
        asked = "<image>\nWhat is it, and where?"
    elif kind == "clip":
        names = [f"{number:05}-{frame}.png" for frame in range(_FRAMES)]
        for frame, name in enumerate(names):
            _draw(colour, shape, *_corner(place, 0.24 * frame / (_FRAMES - 1), rng)).save(
                media / name
            )
        query["video"] = names
        asked = "<video>\nWhat moves, and which way?"
    else:
        asked = f"At the {place} a {shape}, and it is {colour}."
    answer = f"<think>Topic: scene. It shows {words}.</think><answer>{words}<gen_emb>"
    ending = f"\n{DISC_TOKEN}\n{PROMPTS['one-line'].generation}"

    def turns(text: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": text + ending}, {"from": "gpt", "value": answer}]

    return {
        "qry": {"conversations": turns(asked), **query},
        "pos": {"conversations": turns(words)},
        "dataset_name": f"drawn-{kind}",
    }


def _rl(record: dict[str, Any]) -> dict[str, Any]:
    def asked(side: str) -> str:
        value: str = record[side]["conversations"][0]["value"]
        return value.split(f"\n{DISC_TOKEN}")[0].split(">\n")[-1]

    query = record["qry"]
    return {
        "dataset": record["dataset_name"], "dataset_name": record["dataset_name"],
        "qry_text": asked("qry"), "qry_image": query.get("image", [""])[0],
        "qry_video": query.get("video", [""]), "solution": "<embedding>",
        "pos_text": asked("pos"), "pos_image": "", "pos_video": [""],
    }  # fmt: skip


def _corner(place: str, far: float, rng: np.random.Generator) -> tuple[float, float]:
    x, y = {"left": (-far, 0), "right": (far, 0), "top": (0, -far), "bottom": (0, far)}[place]
    shake = rng.uniform(-0.03, 0.03, 2)
    return 0.5 + x + float(shake[0]), 0.5 + y + float(shake[1])


def _draw(colour: str, shape: str, x: float, y: float) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    corners = 2 * _SHAPES[shape] if shape == "star" else _SHAPES[shape]
    points: list[tuple[float, float]] = []
    for n in range(corners):
        radius = SIDE * 0.22 * (0.42 if shape == "star" and n % 2 else 1.0)
        turn = 2 * math.pi * n / corners - math.pi / (4 if shape == "square" else 2)
        points.append((SIDE * x + radius * math.cos(turn), SIDE * y + radius * math.sin(turn)))
    ImageDraw.Draw(picture).polygon(points, fill=_COLOURS[colour])
    return picture
