"""Do more icons help with unseen concepts? `python -m tools.nano.wider --out DIR [--model DIR]`.

The unseen-concept cell is ume-nano's weakest, and its ablation says that too few concepts tie
looks to meaning. So the same steps of disc training are taken from the same weights with ume-nano's
own icons (`own`) and with those of `sources.WIDER` as well (`wider`). A step's emoji are the same
in both, and so is the share of icons.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import ume_nano
from tools.nano.evaluate import CACHE, Evaluation
from tools.nano.recipe import NanoSource, Schedule, taught, teacher_vectors, text_teacher
from tools.nano.sprites import SpriteSheet, load_sprites
from tools.nano.train import config
from ume_torch import TorchEmbedder
from ume_train.sft import SFT

WIDER_CACHE = CACHE.with_name("nano-wider")


def wider_teacher(own: SpriteSheet, wider: SpriteSheet) -> npt.NDArray[np.float32]:
    """The text teacher's vectors of all concepts, in the coordinates that ume-nano was trained in.

    Returns:
        float32 (concepts, 192), rows of NaN for unseen concepts.
    """
    path = WIDER_CACHE / "teacher.npy"
    if path.is_file():
        return np.load(path)
    model = text_teacher()
    first, known = taught(own, model)
    target = teacher_vectors(own, CACHE)[known]
    # The coordinates are a rotation and cut of MiniLM's 384: fitted exactly by least squares.
    axes, *_ = np.linalg.lstsq(first - first.mean(axis=0), target, rcond=None)
    second, known = taught(wider, model)
    out = np.full((len(wider.concepts), target.shape[1]), np.nan, dtype=np.float32)
    out[known] = (second - first.mean(axis=0)) @ axes
    np.save(path, out)
    return out


def main() -> None:
    """Train and measure every arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ume_nano.path())
    parser.add_argument("--out", type=Path, required=True, help="a directory for the runs")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    own, wider = load_sprites(CACHE), load_sprites(WIDER_CACHE, wider=True)
    teachers = {"own": teacher_vectors(own, CACHE), "wider": wider_teacher(own, wider)}
    for name, sheet in (("own", own), ("wider", wider)):
        schedule = Schedule(args.steps, start=Schedule.small, disc_only=1.01)
        source = NanoSource(sheet, schedule, teachers[name], 2000 + args.seed)
        run = args.out / f"{name}-seed-{args.seed}"
        settings = config(args.model, args.steps, {"teacher": 1.0}, lr=args.lr)
        SFT(settings, run, source, args.steps).train()
        evaluation = Evaluation(TorchEmbedder(run / "model"), own, gen=False)
        evaluation.run()
        run.with_suffix(".json").write_text(json.dumps(evaluation.as_json()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
