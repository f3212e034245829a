"""Where a checkpoint is: a directory, or a hub id downloaded at its pinned revision."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ume_core.errors import CheckpointError

# Published revisions: mteb 2.26.24 `ume_r1.py`. Pinning keeps a hub id from changing its vectors.
REVISIONS = {
    "zhibinlan/UME-R1-2B": "e7aaa253cd315be20bd15c8704ad281b4fdf82c9",
    "zhibinlan/UME-R1-7B": "b5c08e3273d979e0f22445306717c39ca8d45df0",
}
_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")


def locate(model: str | Path, *, revision: str | None = None) -> Path:
    """The directory of a checkpoint.

    Args:
        model: a directory, or a hub id.
        revision: of the hub id; None takes the pinned one, or the latest where none is.

    Raises:
        CheckpointError: no such directory, and no hub id that can be had.
    """
    path = Path(model)
    if path.is_dir():
        return path.resolve()
    text = str(model)
    if isinstance(model, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        if path.is_file():
            raise CheckpointError(
                f"{text!r} is a file, not a checkpoint directory",
                fix="pass the directory that holds config.json and model.safetensors",
            )
        raise CheckpointError(
            f"no checkpoint directory {text!r}",
            fix="pass a directory, a hub id such as zhibinlan/UME-R1-2B, or a name (ume models)",
        )
    hub: Any = import_module("huggingface_hub")
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            hub.snapshot_download(
                text, revision=revision or REVISIONS.get(text), allow_patterns=[*_FILES]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{text!r} is neither a directory nor can it be had from the hub: {reason}",
            fix="check the name and the network, or pass a directory",
        ) from error


def own_file(path: Path) -> Path:
    """A file of the checkpoint itself, or one its hub cache links to.

    Raises:
        CheckpointError: it is a link that leads elsewhere.
    """
    target = path.resolve()
    if target.parent != path.parent.resolve() and target.parent.name != "blobs":
        raise CheckpointError(f"{path} links to {target}", fix="copy the file into the checkpoint")
    return path
