"""Train ume-nano: `python -m tools.nano.train` (resumes where it stopped).

`--from DIR` starts a run at a finished one's weights, at the part of the schedule that has the full
picture size and every kind of batch. Give each such run its own `--seed`, so that it sees other
batches. `--refine` is for the last of them: half of the steps are disc, gen vectors are drawn to
disc vectors, and replaced answers are the starting weights' own (`tools.nano.words`; minutes).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from tools.nano import model
from tools.nano.recipe import NanoSource, Schedule, corpus, teacher_vectors
from tools.nano.sprites import load_sprites
from tools.nano.tokenizer import train_tokenizer
from tools.nano.words import own_words
from ume_train.sft import SFTConfig, Trainer

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "nano"


def main() -> None:
    """Build the data, create the run if it is new, and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=CACHE / "run")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--until", type=int, help="stop (and save) after this step")
    parser.add_argument("--from", dest="start", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refine", action="store_true", help="see above; needs --from")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-teacher", action="store_true", help="ablation: no text teacher")
    args = parser.parse_args()
    if args.refine and not args.start:
        parser.error("--refine goes on from a trained checkpoint: give --from DIR")
    if args.threads:
        torch.set_num_threads(args.threads)
    sheet = load_sprites(CACHE)
    directory = args.run / "model"
    if not (directory / "model.safetensors").is_file() and args.start:
        shutil.copytree(args.start, directory, ignore=shutil.ignore_patterns("README.md"))
    elif not (directory / "model.safetensors").is_file():
        train_tokenizer(corpus(sheet), directory)
        model.create(directory)
    teacher = None if args.no_teacher else teacher_vectors(sheet, CACHE)
    start = Schedule.small if args.start else 0.0
    schedule = Schedule(args.steps, start=start, refine=args.refine)
    words = own_words(sheet, args.start, args.run) if args.refine else None
    source = NanoSource(sheet, schedule, teacher, args.seed, words)
    config = SFTConfig(
        steps=args.steps, weight_ce=2.0, weight_follow=5.0 * args.refine, device=args.device
    )
    trainer = Trainer(args.run, source, config)
    print(f"step {trainer.step} of {args.steps}", file=sys.stderr)
    trainer.train(on_log=_show, until=args.until)


def _show(row: dict[str, Any]) -> None:
    print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()),
          file=sys.stderr, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
