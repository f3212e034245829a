"""What thinking is worth on ume-nano's held-out cells: `python -m tools.nano.scaling`.

The study is `ume_eval.scaling`'s, the same as `ume eval scaling` runs on MMEB-V2; beside another
item's thinking, answers that are another item's as a whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from tools.nano import drawing
from tools.nano.evaluate import CACHE, CLIP_POOL, SCENE_POOL, held_out_clips, held_out_scenes
from tools.nano.model import SIDE
from tools.nano.recipe import Scene, draw_scene, seen
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import SpriteSheet, load_sprites
from ume_core import LoadOptions
from ume_eval.data import Entry, Media, Query, TaskData
from ume_eval.report.scaling import write_scaling
from ume_eval.run.store import write_json
from ume_eval.scaling import Shuffled, StudyOptions, study
from ume_eval.tasks import Source, Task
from ume_torch import TorchEmbedder

NEW_TOKENS = 64


def cells(sheet: SpriteSheet, folder: Path) -> list[TaskData]:
    """Text to picture or clip, all in a drawing style that training never showed."""
    rng = np.random.default_rng(1)
    scenes, clips = held_out_scenes(sheet, SCENE_POOL), held_out_clips(sheet, CLIP_POOL)
    concepts = [int(i) for i in seen(sheet, "emoji")]
    return [
        _cell(
            "held-out scenes", folder,
            [s.caption(sheet) for s in scenes],
            [[draw_scene(sheet, s, UNSEEN_STYLE, UNSEEN_STYLE, SIDE, rng)] for s in scenes],
        ),
        _cell(
            "held-out clips", folder,
            [s.caption(sheet) for s in clips],
            [_clip(sheet, s, rng) for s in clips],
        ),
        _cell(
            "seen concepts", folder,
            [sheet.concepts[i].label for i in concepts],
            [[_single(sheet, i)] for i in concepts],
        ),
    ]  # fmt: skip


def _single(sheet: SpriteSheet, concept: int) -> drawing.Floats:
    rgba = drawing.sprite(sheet, concept, UNSEEN_STYLE)
    return drawing.single(rgba, SIDE, None, drawing.COLOURS["white"])


def _clip(sheet: SpriteSheet, spec: Scene, rng: drawing.Rng) -> list[drawing.Floats]:
    rgba = drawing.sprite(sheet, spec.first, UNSEEN_STYLE)
    return list(drawing.clip(rgba, spec.detail, SIDE, rng, drawing.COLOURS["white"]))


def _cell(
    name: str, folder: Path, texts: Sequence[str], pictures: Sequence[Sequence[drawing.Floats]]
) -> TaskData:
    folder = folder / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    candidates: list[Entry] = []
    for number, frames in enumerate(pictures):
        paths: list[Path] = []
        for place, frame in enumerate(frames):
            paths.append(folder / f"{number}-{place}.png")
            PILImage.fromarray(drawing.to_bytes(frame)).save(paths[-1])
        kind = "image" if len(paths) == 1 else "video"
        candidates.append(Entry(number, "", Media(kind, tuple(paths))))
    count = len(texts)
    queries = [Query(Entry(f"q{n}", text), {n: 1}) for n, text in enumerate(texts)]
    source = Source("ume-nano/held-out")
    task = Task(
        f"{name}, unseen style", "image", "nano", "none", "global", source, count, count, "", ""
    )
    return TaskData(task, queries, candidates)


def main() -> None:
    """Study the cells and write the page."""
    import ume_nano

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=CACHE / "scaling")
    parser.add_argument("--samples", type=int, default=8)
    args = parser.parse_args()
    path = ume_nano.path()
    base = LoadOptions(name="ume-nano")  # its own conventions, not those of the published numbers
    engine = TorchEmbedder(path, base)
    variants = {
        name: TorchEmbedder(path, replace(base, thinking=name, thinking_tokens=8))
        for name in ("short", "none", "skip")
    }
    signature = engine.signature("gen")
    about = {
        "model": "ume-nano", "weights": signature.weights, "dtype": signature.dtype,
        "prompt": signature.prompt, "budget": NEW_TOKENS, "short thinking": "8 tokens", "seed": 0,
        "samples": args.samples,
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    for data in cells(load_sprites(CACHE), CACHE / "cells"):
        kept = args.output / "studies" / f"{data.task.name}.json"
        if kept.is_file():
            content = json.loads(kept.read_text("utf-8"))
            if content["about"] == about:
                found.append(content["study"])
                continue
        print(data.task.name, file=sys.stderr, flush=True)
        answers = {
            "thinking of another item": Shuffled(engine, max_new_tokens=NEW_TOKENS),
            "answer of another item": Shuffled(engine, whole=True, max_new_tokens=NEW_TOKENS),
        }
        options = StudyOptions(
            args.samples, max_new_tokens=NEW_TOKENS, variants=variants, answers=answers
        )
        found.append(study(data, engine, options))
        write_json(kept, {"about": about, "study": found[-1]})
        print(write_scaling(args.output, about, found), flush=True)


if __name__ == "__main__":
    main()
