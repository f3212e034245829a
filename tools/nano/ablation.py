"""What bounds ume-nano: `python -m tools.nano.ablation [--model DIR] [--json FILE]`.

Words: names of unseen concepts are replaced by what a general text model says of them. all-MiniLM
knows these words; a linear map, fitted on seen concepts only (MiniLM vector of the name -> disc
vector of the Twemoji picture, ridge regression), carries them into ume-nano's space. What recall
reaches then, the pictures allow; what is missing below it, the text side does not know.

Thinking: the same gen recall with the thinking or the whole answer left out, so that fewer or no
wrong names can stand in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import ume_nano
from tools.nano.evaluate import CACHE, NEW_TOKENS, SEEN_STYLE, Evaluation
from tools.nano.recipe import text_teacher
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import load_sprites
from ume_core.items import Item, Text
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_torch import TorchEmbedder

_RIDGE = (0.1, 1.0, 10.0, 100.0)  # the best of these by recall on seen concepts in an unseen style


def recall5(queries: Vectors, pool: Vectors) -> float:
    """Percent of queries whose own row is among the best five; ties count against it."""
    scores = queries @ pool.T
    truth = np.diagonal(scores)[:, None]
    return round(100 * float(((scores >= truth).sum(axis=1) <= 5).mean()), 1)


def words(evaluation: Evaluation) -> dict[str, float]:
    """Recall@5, text to image, disc, names through MiniLM against the model's own text side."""
    sheet, pools = evaluation.sheet, evaluation.pools
    teacher = text_teacher()

    def said(pool: list[int]) -> Vectors:
        labels = [sheet.concepts[i].label for i in pool]
        return np.asarray(teacher.encode(labels, batch_size=256, normalize_embeddings=True))

    def shown(pool: list[int], art: str) -> Vectors:
        items = [evaluation.picture(i, art) for i in pool]
        return evaluation.engine.embed(items).vectors("disc")

    source, target = said(pools["seen"]), shown(pools["seen"], SEEN_STYLE)
    centre, middle = source.mean(axis=0), target.mean(axis=0)
    pictures = {name: shown(pools[name], UNSEEN_STYLE) for name in pools}
    found: dict[float, dict[str, float]] = {}
    for strength in _RIDGE:
        x, y = source - centre, target - middle
        weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
        rows: dict[str, float] = {}
        for name, pool in pools.items():
            mapped = (said(pool) - centre) @ weights + middle
            mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
            rows[f"{name} concepts, names through MiniLM"] = recall5(mapped, pictures[name])
        found[strength] = rows
    best = max(found.values(), key=lambda r: r["seen concepts, names through MiniLM"])
    for name, pool in pools.items():
        labels = [Item((Text(sheet.concepts[i].label),)) for i in pool]
        own = evaluation.engine.embed(labels).vectors("disc")
        best[f"{name} concepts, its own text side"] = recall5(own, pictures[name])
    return best


def thinking(model: Path, evaluation: Evaluation) -> dict[str, float]:
    """Recall@5 of gen, text to image, seen concepts in an unseen style, by kind of thinking."""
    pool = evaluation.pools["seen"]
    labels = [Item((Text(evaluation.sheet.concepts[i].label),)) for i in pool]
    pictures = [evaluation.picture(i, UNSEEN_STYLE) for i in pool]
    rows: dict[str, float] = {}
    for kind in ("full", "none", "skip"):
        engine = TorchEmbedder(model, LoadOptions(thinking=kind))
        left = engine.embed(labels, mode="gen", max_new_tokens=NEW_TOKENS).vectors("gen")
        right = engine.embed(pictures, mode="gen", max_new_tokens=NEW_TOKENS).vectors("gen")
        rows[f"gen, thinking {kind}"] = recall5(left, right)
    left = evaluation.engine.embed(labels).vectors("disc")
    rows["disc"] = recall5(left, evaluation.engine.embed(pictures).vectors("disc"))
    return rows


def main() -> None:
    """Print both, and add them to a file of numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ume_nano.path())
    parser.add_argument("--json", type=Path, help="add the numbers to this file")
    args = parser.parse_args()
    evaluation = Evaluation(TorchEmbedder(args.model), load_sprites(CACHE), gen=False)
    found: dict[str, Any] = {
        "words": words(evaluation), "thinking": thinking(args.model, evaluation)
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json is not None:
        numbers = json.loads(args.json.read_text("utf-8")) | {"ablation": found}
        args.json.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
