"""Train ume-nano: `python -m tools.nano.train` (resumes where it stopped).

`--from DIR` starts a run at a finished one's weights, at the part of the schedule that has the full
picture size and every kind of batch, on other batches than the first run's.
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
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-teacher", action="store_true", help="ablation: no text teacher")
    args = parser.parse_args()
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
    schedule = Schedule(args.steps, start=Schedule.small if args.start else 0.0)
    source = NanoSource(sheet, schedule, teacher, seed=1 if args.start else 0)
    trainer = Trainer(
        args.run, source, SFTConfig(steps=args.steps, weight_ce=2.0, device=args.device)
    )
    print(f"step {trainer.step} of {args.steps}", file=sys.stderr)
    trainer.train(on_log=_show, until=args.until)


def _show(row: dict[str, Any]) -> None:
    print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()),
          file=sys.stderr, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
