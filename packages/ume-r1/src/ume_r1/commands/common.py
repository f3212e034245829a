"""Arguments and helpers that commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ume_core.conventions import CONVENTIONS, FRAME_LISTS, MEDIA_ORDER, TEXT_ONLY
from ume_core.errors import MediaError
from ume_core.pdf import split_page
from ume_core.prompts import PROMPT_ALIASES, PROMPTS
from ume_core.signature import MODES
from ume_r1.settings import DEFAULT_MODEL, setting

if TYPE_CHECKING:
    from ume_core.embedder import Embedder


def model_arguments(parser: argparse.ArgumentParser, *, of_index: bool = False) -> None:
    """How the model is loaded.

    Args:
        parser: the command's.
        of_index: an index says how, unless it is created.
    """
    usual = "the index's own" if of_index else f"$UME_MODEL, else {DEFAULT_MODEL}"
    group = parser.add_argument_group("model")
    group.add_argument("--model", help=f"name, checkpoint directory or hub id (default: {usual})")
    group.add_argument("--engine", help="see 'ume plugins' (default: auto, the best that fits)")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--dtype", help="auto, float32, bfloat16 or float16 (default: auto, by the device)"
    )
    group.add_argument(
        "--conventions", choices=sorted(CONVENTIONS),
        help="how items become prompts (default: the checkpoint's own, else official)",
    )  # fmt: skip
    group.add_argument(
        "--prompt", choices=sorted([*PROMPTS, *PROMPT_ALIASES]),
        help="the request for a summary (default: the conventions')",
    )  # fmt: skip
    group.add_argument(
        "--text-only", choices=TEXT_ONLY,
        help="what stands before a text without media (default: the conventions')",
    )  # fmt: skip
    group.add_argument(
        "--media-order", choices=MEDIA_ORDER, help="order of parts (default: the conventions')"
    )
    group.add_argument(
        "--frame-lists", choices=FRAME_LISTS,
        help="rule that resizes listed frames (default: the conventions')",
    )  # fmt: skip
    group.add_argument(
        "--thinking", choices=("full", "short", "none", "skip"),
        help="how gen answers; all but full change the vectors (default: full)",
    )  # fmt: skip
    option_argument(group, "an option of the engine; 'ume plugins ENGINE' lists them")
    group.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="budget of gen (default: 1024)"
    )


def option_argument(parser: Any, text: str) -> None:
    """`-o NAME=VALUE`, any number of times."""
    parser.add_argument(
        "-o", "--option", dest="options", metavar="NAME=VALUE", action="append", default=[],
        type=_name_and_value, help=text,
    )  # fmt: skip


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.replace("-", "_"), value


def mode_argument(parser: argparse.ArgumentParser, default: str | None = "disc") -> None:
    """disc, gen or both."""
    usual = default or "disc, or the index's own"
    parser.add_argument("--mode", default=default, choices=MODES, help=f"default: {usual}")


def json_argument(parser: Any) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def options_from(args: argparse.Namespace, *, new: bool = True) -> dict[str, Any]:
    """The load options that were given, by the names of `LoadOptions`.

    Args:
        args: of a command with `model_arguments`.
        new: nothing else says how vectors are made, so that the usual dtype counts.
    """
    names = "conventions prompt text_only media_order frame_lists thinking".split()
    given = {name: getattr(args, name) for name in names}
    given["device"] = args.device or setting("device")
    given["dtype"] = args.dtype or (setting("dtype") if new else None)
    return {n: v for n, v in given.items() if v not in (None, "auto")} | dict(args.options)


def named_model(args: argparse.Namespace) -> str:
    """The model that was asked for, or the usual one."""
    return args.model or setting("model") or DEFAULT_MODEL


def named_engine(args: argparse.Namespace) -> str:
    """The engine that was asked for, or the usual one."""
    return args.engine or setting("engine") or "auto"


def load_from(args: argparse.Namespace, **changes: Any) -> Embedder:
    """The embedder the arguments describe."""
    from ume_r1.loading import load

    options = options_from(args) | changes
    return load(named_model(args), engine=named_engine(args), **options)


def check_file(path: Path) -> None:
    """Refuse a file, or page of one, that is not there, before a model is loaded for it.

    Raises:
        MediaError: it is not there.
    """
    file = split_page(str(path))[0]
    if not Path(file).exists():
        raise MediaError(f"no such file: {file}", fix="check the path")
