"""Arguments and helpers that commands share."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
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
from ume_core.errors import InvalidItem, MediaError
from ume_core.items import Item, Text, part_from_path
from ume_core.limits import Limits
from ume_core.loading import LoadOptions
from ume_core.prompts import PROMPT_ALIASES, PROMPTS
from ume_core.signature import MODES
from ume_r1.loading import DEFAULT_MODEL, load

TEXT_SUFFIXES = frozenset((".txt", ".md"))


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


def load_from(args: argparse.Namespace, **changes: Any) -> Embedder:
    """The embedder the arguments describe."""
    asked = {
        "device": args.device,
        "dtype": args.dtype,
        "conventions": args.conventions,
        "prompt": args.prompt,
        "text_only": args.text_only,
        "media_order": args.media_order,
        "frame_lists": args.frame_lists,
        "provider": args.provider,
        "thinking": args.thinking,
        "gen_cache": args.gen_cache,
    }
    options = replace(LoadOptions(), **{k: v for k, v in asked.items() if v is not None})
    return load(args.model, engine=args.engine, options=options, **changes)


def item_from_file(path: Path, limits: Limits) -> Item:
    """A picture, clip or text file as an item.

    Raises:
        MediaError: the text file cannot be read. InvalidItem: unknown kind of file.
    """
    if path.suffix.lower() not in TEXT_SUFFIXES:
        try:
            return Item((part_from_path(path),))
        except InvalidItem as error:
            fix = "give it the suffix of its kind, such as .png, .mp4 or .txt"
            raise InvalidItem(error.cause, fix=fix) from None
    try:
        if path.exists() and not path.is_file():
            raise MediaError(f"{path} is not a regular file", fix="name a text file")
        if path.stat().st_size > 4 * limits.text_chars:  # UTF-8 takes 4 bytes at most
            raise MediaError(f"{path} is too long a text", fix="split it")
        # "-sig": editors on Windows put a byte order mark first, which is no part of the text.
        return Item((Text(path.read_text("utf-8-sig")),))
    except UnicodeDecodeError as error:
        raise MediaError(f"{path} is not UTF-8 text", fix="convert it") from error
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}", fix="check the path") from error


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
