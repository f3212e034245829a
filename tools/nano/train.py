"""Train ume-nano: `python -m tools.nano.train` (resumes where it stopped).

`--from DIR` starts a run at a finished one's weights, at the part of the schedule that has the full
picture size and every kind of batch. Give each such run its own `--seed`, so that it sees other
batches. `--refine` is for the last of them: half of the steps are disc, gen vectors are drawn to
disc vectors, and replaced answers are the starting weights' own (`tools.nano.words`; minutes).
`--recommended` adds to this what the recommended presets have: the published model's conventions
(whatever those of the starting weights were), duplicates masked, disc and gen aligned.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from tools.nano import model
from tools.nano.recipe import NanoSource, Schedule, corpus, teacher_vectors
from tools.nano.sprites import load_sprites
from tools.nano.tokenizer import train_tokenizer
from tools.nano.words import own_words
from ume_core.conventions import CONVENTIONS_FILE
from ume_train.config.stages import SFTConfig
from ume_train.sft import SFT

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
    parser.add_argument("--recommended", action="store_true", help="see above; needs --from")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-teacher", action="store_true", help="ablation: no text teacher")
    args = parser.parse_args()
    refine = args.refine or args.recommended
    if refine and not args.start:
        parser.error("--refine and --recommended go on from a trained checkpoint: give --from DIR")
    if args.threads:
        torch.set_num_threads(args.threads)
    sheet = load_sprites(CACHE)
    start = args.start or args.run / "start"
    if not (start / "model.safetensors").is_file():
        train_tokenizer(corpus(sheet), start)
        model.create(start)
    teacher = None if args.no_teacher else teacher_vectors(sheet, CACHE)
    schedule = Schedule(args.steps, start=Schedule.small if args.start else 0.0, refine=refine)
    words = own_words(sheet, args.start, args.run) if refine else None
    source = NanoSource(sheet, schedule, teacher, args.seed, words)
    loss = {"ce": 1.0, "follow": 5.0 * refine, "teacher": float(teacher is not None)}
    if args.recommended:
        start = published_conventions(start, args.run / "start")
        loss |= {"align": 1.0, "align_from": 0.0, "mask_duplicates": True}
    run = SFT(config(start, args.steps, loss, lr=0.01), args.run, source, args.steps)
    run.train(args.until)


def published_conventions(start: Path, copy: Path) -> Path:
    """A checkpoint without conventions of its own, so that those of the published model hold."""
    if not copy.exists():
        shutil.copytree(start, copy, ignore=shutil.ignore_patterns(CONVENTIONS_FILE, "onnx"))
    return copy


def config(start: Path, steps: int, loss: dict[str, Any], *, lr: float) -> SFTConfig:
    """The settings that every run of the embedded model has."""
    return SFTConfig.model_validate(
        {
            "model": {"start": str(start), "vision": True, "gradient_checkpointing": False},
            "data": {"drawn": 1},  # the source is this folder's own
            "batch": {"pairs": Schedule.disc_pairs, "chunk": Schedule.disc_pairs},
            "loss": {"temperature": 0.05, "mask_duplicates": False, **loss},
            "optimizer": {
                "name": "muon", "lr": lr, "lr_adam": lr / 5, "betas": [0.9, 0.98],
                "weight_decay": 0.01, "warmup": min(0.5, 50 / steps), "schedule": "hold",
            },
            "run": {
                "steps": steps, "save_every": 100, "log_every": 10, "device": "cpu",
                "save_dtype": "float32",
            },
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
