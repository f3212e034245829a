"""Measure ume-nano's retrieval: `python -m tools.nano.evaluate [--model DIR] [--json FILE]`.

Cells: concept seen/unseen in training x drawing style seen (Twemoji) / unseen (OpenMoji), text to
image and image to text, disc and gen; composed scenes and clips with unseen combinations. Gen
vectors come from the model's own greedy generation on both sides, never from given answers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from scipy.stats import binomtest

from tools.nano import drawing
from tools.nano.model import SIDE
from tools.nano.recipe import Scene, draw_scene, scene_concepts, scene_twins, seen
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import SpriteSheet, load_sprites
from ume_core.items import Image as ImagePart
from ume_core.items import Item, Text, Video
from ume_core.results import EmbeddingResult
from ume_torch import TorchEmbedder

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "nano"
SEEN_STYLE = "twemoji"
SCENE_POOL, CLIP_POOL = 500, 200
_FORM = re.compile(r"<think>[^<]+</think><answer>[^<]+<gen_emb>")
NEW_TOKENS = 64


@dataclass(frozen=True)
class Cell:
    """Recall of one kind of query against one pool, in percent; `chance` is k / pool.

    Attributes:
        low5, high5: 95 % Wilson interval of `recall5`.
        hits5: `1` for each query that is among the five, else `0`, for paired comparisons.
    """

    concepts: str
    style: str
    direction: str
    query: str
    mode: str
    pool: int
    recall1: float
    recall5: float
    low5: float
    high5: float
    chance1: float
    chance5: float
    hits5: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What tells it from other cells."""
        return self.concepts, self.style, self.direction, self.query, self.mode


class Evaluation:
    """Embeds each set of items once and fills the cells."""

    def __init__(self, engine: TorchEmbedder, sheet: SpriteSheet, gen: bool) -> None:
        self.engine, self.sheet, self.gen = engine, sheet, gen
        self.cells: list[Cell] = []
        self.forms: dict[str, float] = {}
        self.examples: list[dict[str, str]] = []
        emoji = [i for i, c in enumerate(sheet.concepts) if c.kind == "emoji"]
        self.pools = {
            "seen": [int(i) for i in seen(sheet, "emoji")],
            "unseen": [i for i in emoji if sheet.concepts[i].unseen],
        }

    def run(self) -> None:
        """All cells."""
        for name, pool in self.pools.items():
            labels = [Item((Text(self.sheet.concepts[i].label),)) for i in pool]
            words = [self._keywords(i) for i in pool]
            texts = self._embed(labels, f"{name} concepts, names")
            keywords = self._embed(words, f"{name} concepts, keywords", gen=False)
            by_style: dict[str, EmbeddingResult] = {}
            for style, art in (("seen", SEEN_STYLE), ("unseen", UNSEEN_STYLE)):
                pictures = self._embed(
                    [self.picture(i, art) for i in pool], f"{name} concepts, {style} style"
                )
                for mode in self._modes():
                    left, right = texts.vectors(mode), pictures.vectors(mode)
                    self._add(name, style, "text to image", "name", mode, left, right)
                    self._add(name, style, "image to text", "picture", mode, right, left)
                self._add(
                    name, style, "text to image", "keywords", "disc",
                    keywords.vectors("disc"), pictures.vectors("disc"),
                )  # fmt: skip
                by_style[style] = pictures
                self._judge(f"{name} concepts, {style} style", pool, pictures)
                if name == "unseen" and style == "unseen":
                    self._full_pool(texts, pictures)
            # Without words: how far the picture side alone carries to a new style.
            self._add(
                name, "unseen", "image to image", "picture in the seen style", "disc",
                by_style["seen"].vectors("disc"), by_style["unseen"].vectors("disc"),
            )  # fmt: skip
        self._composed()

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "cells": [asdict(c) for c in self.cells],
            "generation": self.forms,
            "examples": self.examples,
        }

    def _full_pool(self, texts: EmbeddingResult, pictures: EmbeddingResult) -> None:
        """Unseen concepts among all 1,914, in the unseen style."""
        others = self._embed(
            [self.picture(i, UNSEEN_STYLE) for i in self.pools["seen"]], "full pool", gen=False
        )
        pool = np.concatenate([pictures.vectors("disc"), others.vectors("disc")])
        self._add("unseen", "unseen", "text to image", "name, full pool", "disc",
                  texts.vectors("disc"), pool)  # fmt: skip

    def _composed(self) -> None:
        for style, art in (("seen", SEEN_STYLE), ("unseen", UNSEEN_STYLE)):
            scenes = held_out_scenes(self.sheet, SCENE_POOL)
            rng = np.random.default_rng(1)
            pictures = [self._scene(s, art, rng) for s in scenes]
            clips = held_out_clips(self.sheet, CLIP_POOL)
            videos = [self._clip(s, art, rng) for s in clips]
            for name, specs, items in (("scenes", scenes, pictures), ("clips", clips, videos)):
                shown = self._embed(items, f"{name}, {style} style")
                captions = [Item((Text(s.caption(self.sheet)),)) for s in specs]
                said = self._embed(captions, f"{name}, captions")
                for mode in self._modes():
                    left, right = said.vectors(mode), shown.vectors(mode)
                    self._add(f"composed {name}", style, "text to image", "caption", mode,
                              left, right)  # fmt: skip
                    self._add(f"composed {name}", style, "image to text", "picture", mode,
                              right, left)  # fmt: skip
                self._form(f"composed {name}, {style} style", shown)

    def _modes(self) -> tuple[str, ...]:
        return ("disc", "gen") if self.gen else ("disc",)

    def _embed(self, items: list[Item], what: str, gen: bool = True) -> EmbeddingResult:
        mode = "both" if self.gen and gen else "disc"
        print(f"{what}: {len(items)} items, {mode}", file=sys.stderr, flush=True)
        return self.engine.embed(items, mode=mode, max_new_tokens=NEW_TOKENS)

    def _add(
        self,
        concepts: str,
        style: str,
        direction: str,
        query: str,
        mode: str,
        left: Any,
        right: Any,
    ) -> None:
        scores = left @ right.T
        truth = scores[np.arange(len(left)), np.arange(len(left))]
        # Ties count against the model.
        rank = (scores >= truth[:, None]).sum(axis=1)
        pool = len(right)
        r1, r5 = (round(float((rank <= k).mean()) * 100, 1) for k in (1, 5))
        chance1, chance5 = (round(k / pool * 100, 2) for k in (1, 5))
        hits = rank <= 5
        share = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        self.cells.append(
            Cell(
                concepts=concepts,
                style=style,
                direction=direction,
                query=query,
                mode=mode,
                pool=pool,
                recall1=r1,
                recall5=r5,
                low5=round(100 * float(share.low), 1),
                high5=round(100 * float(share.high), 1),
                chance1=chance1,
                chance5=chance5,
                hits5="".join("1" if hit else "0" for hit in hits),
            )
        )

    def _form(self, what: str, result: EmbeddingResult) -> None:
        if self.gen:
            good = [
                r.status == "ok" and bool(_FORM.fullmatch(r.samples[0].text))
                for r in result.records
            ]
            self.forms[f"{what}: well-formed %"] = round(float(np.mean(good)) * 100, 1)

    def _judge(self, what: str, pool: list[int], result: EmbeddingResult) -> None:
        """Well-formedness, exact summaries, and a few examples of either kind."""
        if not self.gen:
            return
        self._form(what, result)
        labels = [self.sheet.concepts[i].label for i in pool]
        right = [r.summary == label for r, label in zip(result.records, labels, strict=True)]
        self.forms[f"{what}: summary is the name %"] = round(float(np.mean(right)) * 100, 1)
        for wanted in (True, False):
            chosen = [i for i, ok in enumerate(right) if ok is wanted][:: max(1, len(right) // 9)]
            for i in chosen[:3]:
                record = result.records[i]
                self.examples.append(
                    {"cell": what, "picture of": labels[i], "thinking": record.thinking,
                     "summary": record.summary}
                )  # fmt: skip

    def _keywords(self, concept: int) -> Item:
        """Up to four keywords without the name itself."""
        c = self.sheet.concepts[concept]
        return Item((Text(", ".join(c.keywords[:4]) or c.label),))

    def picture(self, concept: int, style: str) -> Item:
        """A drawing of a concept in a style, as an item."""
        rgba = drawing.sprite(self.sheet, concept, style)
        canvas = drawing.single(rgba, SIDE, None, drawing.COLOURS["white"])
        return _image(drawing.to_bytes(canvas))

    def _scene(self, spec: Scene, style: str, rng: drawing.Rng) -> Item:
        canvas = draw_scene(self.sheet, spec, style, style, SIDE, rng)
        return _image(drawing.to_bytes(canvas))

    def _clip(self, spec: Scene, style: str, rng: drawing.Rng) -> Item:
        rgba = drawing.sprite(self.sheet, spec.first, style)
        frames = drawing.clip(rgba, spec.detail, SIDE, rng, drawing.COLOURS["white"])
        return Item((Video(np.stack([drawing.to_bytes(f) for f in frames])),))


def held_out_scenes(sheet: SpriteSheet, count: int) -> list[Scene]:
    """Scenes of combinations that training never showed, no two of one caption."""
    rng = np.random.default_rng(0)
    pool = scene_concepts(sheet)
    found: dict[str, Scene] = {}
    while len(found) < count:
        for spec in scene_twins(pool, int(rng.integers(3)), rng):
            if spec.held_out and len(found) < count:
                found.setdefault(spec.caption(sheet), spec)
    return list(found.values())


def held_out_clips(sheet: SpriteSheet, count: int) -> list[Scene]:
    """Clips of combinations that training never showed."""
    rng = np.random.default_rng(0)
    found: dict[str, Scene] = {}
    pool = scene_concepts(sheet)
    while len(found) < count:
        concept, motion = int(rng.choice(pool)), str(rng.choice(drawing.MOTIONS))
        spec = Scene("clip", concept, concept, motion)
        if spec.held_out:
            found.setdefault(spec.caption(sheet), spec)
    return list(found.values())


def _image(pixels: drawing.Bytes) -> Item:
    return Item((ImagePart(PILImage.fromarray(pixels)),))


def table(cells: Iterable[Cell]) -> str:
    """The cells as Markdown."""
    lines = [
        "| concepts | style | direction | query | mode | pool | R@1 % | R@5 % [95 %] "
        "| chance R@1/R@5 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.concepts} | {c.style} | {c.direction} | {c.query} | {c.mode} | {c.pool:,} "
        f"| {c.recall1} | {c.recall5} [{c.low5}, {c.high5}] | {c.chance1} / {c.chance5} |"
        for c in cells
    ]
    return "\n".join(lines)


def main() -> None:
    """Evaluate a checkpoint directory and print the table."""
    import ume_nano

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ume_nano.path())
    parser.add_argument("--no-gen", action="store_true", help="disc only; minutes faster")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    evaluation = Evaluation(TorchEmbedder(args.model), load_sprites(CACHE), not args.no_gen)
    evaluation.run()
    print(table(evaluation.cells))
    for name, value in evaluation.forms.items():
        print(f"{name}: {value}")
    for example in evaluation.examples:
        print(json.dumps(example, ensure_ascii=False))
    if args.json is not None:
        found = json.dumps(evaluation.as_json(), indent=1, ensure_ascii=False)
        args.json.write_text(found + "\n", "utf-8")


if __name__ == "__main__":
    main()
