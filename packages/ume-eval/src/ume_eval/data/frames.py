"""Frames of a video, taken from a directory of saved ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ume_core.errors import InvalidOption
from ume_eval.data.model import Media

SUFFIXES = (".jpg", ".jpeg", ".png")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts `frame_10` after `frame_9`, letters without case."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p.lower()) for p in parts]


def frame_files(folder: Path) -> tuple[Path, ...]:
    """The saved frames, in natural order.

    Raises:
        InvalidOption: there are none.
    """
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    frames = [n for n in names if n.lower().endswith(SUFFIXES)]
    if not frames:
        raise InvalidOption(
            f"{folder} holds no frames",
            fix="unpack the archive of frames again; `ume eval mmeb` names the commands",
        )
    return tuple(folder / n for n in sorted(frames, key=natural_key))


def video(folder: Path, count: int | None) -> Media:
    """A video of `count` frames spread evenly over the saved ones; all if there are fewer.

    Upstream: `numpy.linspace` over the numbers, cut to whole ones (`sample_frames` in VLM2Vec
    `src/utils/vision_utils/vision_utils.py`).
    """
    files = frame_files(folder)
    if count is not None and len(files) >= count:
        chosen = np.linspace(0, len(files) - 1, count, dtype=int)
        files = tuple(files[int(i)] for i in chosen)
    return Media("video", files)
