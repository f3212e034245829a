"""Reinforce ume-nano's thinking: `python -m tools.nano.reinforce --model DIR --out DIR`.

Pictures of seen concepts, varied as in training, against their names; `ume_train.grpo` with the
published reward, groups of 8 and 16 pairs told apart. `tools.nano.headroom` says beforehand what
there is to gain, and measures rewards on fixed pairs before and after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from tools.nano.drawing import Look
from tools.nano.evaluate import CACHE, NEW_TOKENS
from tools.nano.model import SIDE
from tools.nano.recipe import NanoSource, Schedule
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import SpriteSheet, load_sprites
from ume_core.items import Image, Item, Text
from ume_train.config.stages import GRPOConfig
from ume_train.data.pairs import Example, PairBatch
from ume_train.grpo.trainer import GRPO

PAIRS = 16


class Pictures:
    """Pictures and names of seen concepts as a `PairSource`."""

    def __init__(self, sheet: SpriteSheet, seed: int) -> None:
        self._drawn = NanoSource(sheet, Schedule(1), None)
        self._sheet, self._seed = sheet, seed

    def batch(self, step: int) -> PairBatch:
        """Step `step`'s pairs."""
        rng = np.random.default_rng((self._seed, step))
        queries: list[Example] = []
        positives: list[Example] = []
        for concept in rng.choice(self._drawn.emoji, PAIRS, replace=False):
            styles = [s for s in self._sheet.rows[int(concept)] if s != UNSEEN_STYLE]
            style = styles[int(rng.integers(len(styles)))]
            picture = self._drawn.picture(int(concept), style, SIDE, Look(outline=0.3), rng)
            label = self._sheet.concepts[int(concept)].label
            queries.append(Example(Item((Image(PILImage.fromarray(picture)),))))
            positives.append(Example(Item((Text(label),))))
        return PairBatch(queries, positives, gen=True)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = GRPOConfig.model_validate(
        {
            "model": {
                "start": str(args.model), "gradient_checkpointing": False, "precision": "float32",
            },
            "data": {"drawn": 1},  # the source is this folder's own
            "batch": {"pairs_per_reward": PAIRS, "chunk": 64},
            "rollouts": {"generations": 8, "new_tokens": NEW_TOKENS},
            "loss": {"length": NEW_TOKENS},
            "optimizer": {"lr": args.lr, "warmup": 0.05, "schedule": "linear"},
            "run": {
                "steps": args.steps, "save_every": 10, "device": "cpu", "seed": args.seed,
                "save_dtype": "float32",
            },
        }
    )  # fmt: skip
    GRPO(config, args.out, Pictures(load_sprites(CACHE), args.seed), args.steps).train()


if __name__ == "__main__":
    main()
