"""Arguments and helpers that commands share."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ume_core.conventions import CONVENTIONS, FRAME_LISTS, MEDIA_ORDER, TEXT_ONLY
from ume_core.embedder import Embedder
from ume_core.prompts import PROMPT_ALIASES, PROMPTS
from ume_core.signature import MODES
from ume_r1.loading import DEFAULT_MODEL, load


def model_arguments(
    parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_MODEL
) -> None:
    """How the model is loaded."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default=default, help="alias, checkpoint directory or hub id")
    group.add_argument("--engine", default="auto", help="see 'ume plugins'")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    group.add_argument(
        "--conventions", default=None, choices=sorted(CONVENTIONS),
        help="how items become prompts (default: the checkpoint's own, else official)",
    )  # fmt: skip
    group.add_argument(
        "--prompt", default=None, choices=sorted([*PROMPTS, *PROMPT_ALIASES]),
        help="the request for a summary",
    )  # fmt: skip
    group.add_argument(
        "--text-only", default=None, choices=TEXT_ONLY, help="policy for text-only items"
    )
    group.add_argument("--media-order", default=None, choices=MEDIA_ORDER, help="order of parts")
    group.add_argument(
        "--frame-lists", default=None, choices=FRAME_LISTS, help="rule that resizes listed frames"
    )
    group.add_argument(
        "--provider", default=None, choices=("auto", "cpu", "cuda", "tensorrt"),
        help="ONNX Runtime's execution provider",
    )  # fmt: skip
    group.add_argument(
        "--thinking", default=None, choices=("full", "short", "none", "skip"),
        help="how gen answers (all but full change the vectors)",
    )  # fmt: skip
    group.add_argument("--gen-cache", type=Path, default=None, help="file that keeps gen answers")
    group.add_argument(
        "--max-new-tokens", type=int, default=None, help="budget of gen (default: 1024)"
    )


def mode_argument(parser: argparse.ArgumentParser, default: str | None = "disc") -> None:
    """disc, gen or both."""
    parser.add_argument("--mode", default=default, choices=MODES, help="default: disc")


def options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The load options that were given, by the names of `LoadOptions`."""
    names = (
        "device dtype conventions prompt text_only media_order frame_lists provider thinking "
        "gen_cache"
    )
    given = {name: getattr(args, name) for name in names.split()}
    return {name: value for name, value in given.items() if value not in (None, "auto")}


def load_from(args: argparse.Namespace, **changes: Any) -> Embedder:
    """The embedder the arguments describe."""
    return load(args.model, engine=args.engine, **options_from(args), **changes)


class _Lines(Progress):
    """Progress for logs and pipes: a plain line now and then, instead of a bar."""

    seconds = 5.0

    def __init__(self, title: str) -> None:
        super().__init__(disable=True)
        self._title, self._last = title, time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Print how far it is, at most every few seconds."""
        super().update(task_id, **fields)
        now = time.monotonic()
        if now - self._last >= self.seconds:
            self._last = now
            task = next(t for t in self.tasks if t.id == task_id)
            total = f"{task.total:.0f}" if task.total else "?"
            print(f"{self._title}: {task.completed:.0f} of {total}", file=sys.stderr, flush=True)


def progress_bar(title: str) -> Progress:
    """A bar on standard error, or plain lines where that is no terminal."""
    if not sys.stderr.isatty():
        return _Lines(title)
    return Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def printable(name: str) -> str:
    """A file name on one line, whatever is in it."""
    return name if name.isprintable() else ascii(name)[1:-1]
