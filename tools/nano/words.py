"""What a model says of the training pictures, to train its gen vector against near misses.

A model's own greedy answers are often nearly right: of the right topic, with a neighbour's name. A
gen vector that has only seen right names and wildly wrong ones trusts such names. So a run that
goes on from a model takes that model's answers as most of its replaced ones (`recipe.NanoSource`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from tools.nano.drawing import Look
from tools.nano.model import SIDE
from tools.nano.recipe import NanoSource, Schedule, Words
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import SpriteSheet
from ume_core.items import Image, Item
from ume_torch import TorchEmbedder

_NEW_TOKENS = 64
_CHUNK = 512


def own_words(sheet: SpriteSheet, model: Path, run: Path) -> Words:
    """Answers of the checkpoint `model`: one of each seen emoji in each training style.

    Kept in `run / "words.json"`, so that a resumed run trains on the same.
    """
    path = run / "words.json"
    if not path.is_file():
        asked = [
            (int(concept), style)
            for concept in NanoSource(sheet, Schedule(1), None).emoji
            for style in sheet.rows[concept]
            if style != UNSEEN_STYLE
        ]
        said: list[tuple[int, str, str]] = []
        engine = TorchEmbedder(model)
        for start in range(0, len(asked), _CHUNK):
            said += _answers(engine, sheet, asked[start : start + _CHUNK], start)
            print(f"its own words: {start + _CHUNK} of {len(asked)}", file=sys.stderr, flush=True)
        path.write_text(json.dumps(said), "utf-8")
    words: Words = {}
    for concept, thinking, summary in json.loads(path.read_text("utf-8")):
        words.setdefault(concept, []).append((thinking, summary))
    return words


def _answers(
    engine: TorchEmbedder, sheet: SpriteSheet, asked: list[tuple[int, str]], seed: int
) -> list[tuple[int, str, str]]:
    """(concept, thinking, summary) of those pictures whose answer has the published form."""
    source, rng = NanoSource(sheet, Schedule(1), None), np.random.default_rng((2, seed))
    look = Look(outline=0.3)  # as late in the schedule
    items = [
        Item((Image(PILImage.fromarray(source.picture(c, style, SIDE, look, rng))),))
        for c, style in asked
    ]
    records = engine.embed(items, mode="gen", max_new_tokens=_NEW_TOKENS).records
    return [
        (concept, record.thinking, record.summary)
        for (concept, _), record in zip(asked, records, strict=True)
        if record.status == "ok" and record.thinking and record.summary
    ]
