"""Does disc find gen? `python -m tools.nano.alignment --model DIR [--model DIR …] [--json FILE]`.

Queries in one mode against an index in another: dd, gg, gd (gen queries, disc index) and dg, text
to image and image to text, recall at 5. Half of the seen concepts are the pool, drawn in the unseen
style; on the other half, in the seen style, controls are fitted that need no training: `centred`
takes each mode's and side's mean off, `rotated` also turns gen onto disc (orthogonal Procrustes).
Gen vectors are of the model's own greedy answers.

`--train STEPS --seed N --align W --out DIR` tunes a checkpoint first, alignment at that weight.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tools.nano.evaluate import CACHE, NEW_TOKENS, SEEN_STYLE, Evaluation
from tools.nano.recipe import NanoSource, Schedule
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import load_sprites
from tools.nano.train import config
from ume_core.items import Item, Text
from ume_torch import TorchEmbedder
from ume_train.sft import SFT

Vectors = npt.NDArray[np.float32]
_LR = 0.003  # a third of a long run's peak: these start from a trained model


def tune(start: Path, out: Path, steps: int, seed: int, align: float) -> Path:
    """Train on with or without alignment; returns the checkpoint."""
    sheet = load_sprites(CACHE)
    schedule = Schedule(steps, start=0.56, gen_pairs=32, short_pairs=32, disc_pairs=96)
    source = NanoSource(sheet, schedule, None, 1000 + seed)
    loss = {"ce": 1.0, "align": align, "align_from": 0.0}
    SFT(config(start, steps, loss, lr=_LR), out, source, steps).train()
    return out / "model"


def measure(model: Path, most: int) -> dict[str, Any]:
    """Recall at 5 in percent among `most` concepts, and hits by query for paired comparisons."""
    evaluation = Evaluation(TorchEmbedder(model), load_sprites(CACHE), gen=True)
    concepts = np.random.default_rng(0).permutation(evaluation.pools["seen"])
    half = min(most, len(concepts) // 2)
    fit = _vectors(evaluation, concepts[:half], SEEN_STYLE)
    test = _vectors(evaluation, concepts[-half:], UNSEEN_STYLE)
    found: dict[str, Any] = {"model": str(model), "pool": half}
    for control in ("none", "centred", "rotated"):
        vectors = _changed(fit, test, control)
        for pair in ("dd", "gg", "gd", "dg"):
            hits = np.concatenate(
                [
                    _hits(vectors["text", pair[0]], vectors["image", pair[1]]),
                    _hits(vectors["image", pair[0]], vectors["text", pair[1]]),
                ]
            )
            found[f"{pair}, {control}"] = round(100 * float(hits.mean()), 2)
            found.setdefault("hits", {})[f"{pair}, {control}"] = "".join(map(str, hits.astype(int)))
    own = [np.sum(test[side, "d"] * test[side, "g"], axis=1) for side in ("text", "image")]
    found["cosine of gen and disc of one item, mean"] = round(float(np.concatenate(own).mean()), 4)
    return found


def _vectors(
    evaluation: Evaluation, concepts: npt.NDArray[np.int64], style: str
) -> dict[tuple[str, str], Vectors]:
    sheet = evaluation.sheet
    items = {
        "text": [Item((Text(sheet.concepts[int(c)].label),)) for c in concepts],
        "image": [evaluation.picture(int(c), style) for c in concepts],
    }
    out: dict[tuple[str, str], Vectors] = {}
    for side, members in items.items():
        print(f"{style}, {side}: {len(members)}", file=sys.stderr, flush=True)
        result = evaluation.engine.embed(members, mode="both", max_new_tokens=NEW_TOKENS)
        out[side, "d"], out[side, "g"] = result.vectors("disc"), result.vectors("gen")
    return out


def _changed(
    fit: dict[tuple[str, str], Vectors], test: dict[tuple[str, str], Vectors], control: str
) -> dict[tuple[str, str], Vectors]:
    if control == "none":
        return test
    means = {key: value.mean(axis=0) for key, value in fit.items()}
    out = {key: value - means[key] for key, value in test.items()}
    if control == "rotated":
        for side in ("text", "image"):
            left, right = (fit[side, m] - means[side, m] for m in ("g", "d"))
            u, _, v = np.linalg.svd(left.T @ right)
            out[side, "g"] = out[side, "g"] @ (u @ v)
    return {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in out.items()}


def _hits(queries: Vectors, pool: Vectors) -> npt.NDArray[np.bool_]:
    """Whether each query's own row is among the best five; ties count against it."""
    scores = queries @ pool.T
    return (scores >= np.diagonal(scores)[:, None]).sum(axis=1) <= 5


def main() -> None:
    """Tune if asked, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--pool", type=int, default=875, help="concepts of the pool, and of the fit"
    )
    parser.add_argument("--train", type=int, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--align", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models: list[Path] = args.model
    if args.train:
        models = [tune(models[0], args.out, args.train, args.seed, args.align)]
    found = [measure(m, args.pool) for m in models]
    for one in found:
        print(json.dumps({k: v for k, v in one.items() if k != "hits"}, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
