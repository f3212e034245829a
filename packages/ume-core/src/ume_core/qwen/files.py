"""Reading a checkpoint's own files: bounded, and named when they hold something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError

# tokenizer.json, the largest, has 7 to 20 MB in the published checkpoints.
_MOST_BYTES = 256 * 1024 * 1024
_HEAD = 512
_LFS = b"version https://git-lfs.github.com/spec/"  # git-lfs docs/spec.md, "The Pointer"


def check_content(path: Path) -> None:
    """Refuse what often stands in place of a checkpoint's file.

    Raises:
        CheckpointError: the file is empty, a git-lfs pointer, an HTML page or a pickle.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", fix="check its permissions"
        ) from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)", fix="download it again")
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not the file itself",
            fix=f"run `git lfs pull` in {path.parent}, or download it from the hub",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path} is an HTML page, such as a server's error or log-in page",
            fix="download the file itself (on the hub its address has /resolve/, not /blob/)",
        )
    # A safetensors file is a length of 8 bytes, which may look like anything, and a JSON object.
    is_safetensors = head[8:9] == b"{"
    pickled = head.startswith((b"PK\x03\x04", b"\x80")) and not is_safetensors
    if path.suffix == ".safetensors" and pickled:
        raise CheckpointError(
            f"{path} is a pickle named .safetensors; pickles are never loaded",
            fix="save it with save_pretrained(), which writes safetensors",
        )


def read_text(path: Path) -> str:
    """A UTF-8 file's text.

    Raises:
        CheckpointError: it is not such a file, or has more than 256 MiB.
    """
    check_content(path)
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes, more than any such file of a checkpoint",
            fix="replace it with the checkpoint's own",
        )
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error}", fix="replace it") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file holds none.
    """
    try:
        value = json.loads(read_text(path))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON: {error}", fix="download it again, or mend it"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object", fix="replace it")
    return cast("dict[str, Any]", value)


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no file."""
    return read_json(path) if path.is_file() else {}
