"""Structures that are nearly, or not at all, what `as_item` accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from tools.fuzz.texts import text
from ume_core import Image, Text, Video

Random = np.random.Generator

_KEYS = (
    "text", "image", "images", "image_url", "video", "videos", "type", "role", "content",
    "instruction", "fps", "nframes", "min_frames", "max_frames", "min_pixels", "max_pixels",
    "total_pixels", "resized_height", "resized_width", "video_start", "video_end", "sample_fps",
    "url", "audio", "", "Text",
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 28, 56, 3136, 10**6, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-9, 1e308, float("nan"),
    float("inf"), True, np.int64(4), np.float32(2), "2", "1e9",
)  # fmt: skip
_FRAME = PILImage.new("RGB", (40, 30), "red")


def _array(rng: Random) -> Any:
    shapes = [(), (0,), (3,), (20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4), (20, 30, 2),
              (3, 20, 30), (4, 20, 30, 3), (1, 1, 1, 1, 1), (0, 30, 3), (4, 0, 30, 3)]  # fmt: skip
    kinds = ["u1", "f4", "f8", "f2", "i4", "u2", "bool", "c8", "O", "U3", "M8[s]"]
    values = rng.integers(0, 2, shapes[int(rng.integers(len(shapes)))])
    return values.astype(kinds[int(rng.integers(len(kinds)))])


def _leaf(rng: Random) -> Any:
    leaves: tuple[Callable[[], Any], ...] = (
        lambda: text(rng)[:2000], lambda: _NUMBERS[int(rng.integers(len(_NUMBERS)))],
        lambda: None, lambda: rng.bytes(int(rng.integers(0, 40))), lambda: _FRAME,
        lambda: _FRAME.convert("F"), lambda: _array(rng), lambda: Path("missing.png"),
        lambda: Path("no-suffix"), lambda: Path("missing.mp4"), lambda: object(),
        lambda: range(3), lambda: {1, 2}, lambda: iter("ab"), lambda: Text("a"),
        lambda: Image(_FRAME), lambda: Video([_FRAME, _FRAME]), lambda: lambda x: x,
        lambda: "user", lambda: "https://example.invalid/a.png", lambda: "data:image/png;base64,AA",
        lambda: "/etc/passwd", lambda: bytearray(b"x"), lambda: memoryview(b"x"), lambda: 1j,
    )  # fmt: skip
    return leaves[int(rng.integers(len(leaves)))]()


def _any(rng: Random, depth: int) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.45:
        return _leaf(rng)
    count = int(rng.integers(0, 5))
    if kind < 0.65:
        return [_any(rng, depth - 1) for _ in range(count)]
    if kind < 0.7:
        return tuple(_any(rng, depth - 1) for _ in range(count))
    if kind < 0.72:
        return {int(rng.integers(9)): _any(rng, depth - 1)}
    return {str(rng.choice(_KEYS)): _any(rng, depth - 1) for _ in range(count)}


def _sound(rng: Random) -> Any:
    """One user message as the README shows it, with a picture, a clip and options."""
    content: list[dict[str, Any]] = [
        {"type": "text", "text": text(rng)[:300]}, {"type": "image", "image": _FRAME},
        {"type": "video", "video": [_FRAME, _FRAME], "fps": 2.0},
    ]  # fmt: skip
    rng.shuffle(content)  # type: ignore[arg-type]
    return [{"role": "user", "content": content}]


def _damage(value: Any, rng: Random) -> Any:
    """The same structure with one to three places replaced, added or dropped."""
    for _ in range(int(rng.integers(1, 4))):
        place = value
        while isinstance(place, (list, dict)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = keys[int(rng.integers(len(keys)))]
            if rng.random() < 0.4 or not isinstance(place[key], (list, dict)):
                _replace(place, key, rng)
                break
            place = place[key]
    return value


def _replace(place: Any, key: Any, rng: Random) -> None:
    how = rng.random()
    if how < 0.5:
        place[key] = _any(rng, 2)
    elif how < 0.7:
        del place[key]
    elif isinstance(place, dict):
        place[str(rng.choice(_KEYS))] = _any(rng, 1)
    else:
        place.insert(key, _any(rng, 2))


def message(rng: Random) -> Any:
    """What somebody may hand over as one item."""
    return _damage(_sound(rng), rng) if rng.random() < 0.6 else _any(rng, 4)
