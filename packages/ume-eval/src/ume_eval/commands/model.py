"""Arguments that load a model under the published conventions."""

from __future__ import annotations

import argparse
from typing import Any

from ume_core import Embedder, load
from ume_eval.conventions import official
from ume_eval.run.encoder import EncoderOptions
from ume_eval.run.workers import Workers, device_of


def model_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Which model, and how it computes."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default=default, help="alias, checkpoint directory or hub id")
    group.add_argument("--engine", default="auto", help="see 'ume plugins'")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    group.add_argument(
        "--thinking", default="full", choices=("full", "short", "none", "skip"),
        help="how gen answers (all but full change the vectors)",
    )  # fmt: skip
    group.add_argument(
        "--max-new-tokens", type=int, default=None, help="budget of an answer (default: 1024)"
    )
    group.add_argument(
        "--chunk", type=int, default=256,
        help="items stored together; what a killed run loses at most (default: 256)",
    )  # fmt: skip


def load_model(args: argparse.Namespace, workers: Workers) -> tuple[Embedder, str]:
    """The embedder, and the name of its conventions."""
    convention, changes = official()
    options: dict[str, Any] = {
        "device": device_of(args.device, workers),
        "dtype": args.dtype,
        "thinking": args.thinking,
        **changes,
    }
    return load(args.model, engine=args.engine, **options), convention


def encoder_options(args: argparse.Namespace) -> EncoderOptions:
    """Budget and chunk size."""
    return EncoderOptions(args.max_new_tokens, args.chunk)
