"""Optimisation profiles: which sizes an engine takes, and the point a request is computed at.

A profile gives every dynamic axis of a graph its least, best and most size. A request runs at a
*point*: its sizes padded up to a coarse grid, so that few captured CUDA graphs serve all requests.
Padding is exact: rows, images and visual states beyond the request's are ignored, and tokens that
are added belong to no prompt (see `ume_qwen.exported.inputs`). Patches cannot be padded: every
patch sees every other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ume_core.errors import InvalidOption
from ume_qwen.exported.inputs import TEXT, VISION, Arrays
from ume_qwen.sizes import MERGE

Sizes: TypeAlias = "dict[str, int]"
# A graph's inputs as in the export's manifest: name -> [element type, axes]; numbers are fixed.
Inputs: TypeAlias = "Mapping[str, Sequence[Any]]"
AXES = {VISION: ("images", "patches"), TEXT: ("rows", "tokens", "visual_tokens")}
# A graph's work grows with the product of these.
_WORK = {VISION: ("images", "patches"), TEXT: ("tokens",)}
# 16,384 patches are 3.2 megapixels; the tokens of a prompt end with the model's context anyway.
_LIMIT = {"rows": 1024, "images": 1024, "patches": 65_536, "tokens": 131_072,
          "visual_tokens": 131_072}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Sizes of one axis: TensorRT's kMIN, kOPT (what it is tuned for) and kMAX."""

    least: int
    best: int
    most: int


@dataclass(frozen=True)
class Profile:
    """One optimisation profile of one graph: its axes by name."""

    axes: dict[str, Span]

    def most(self) -> Sizes:
        """The largest sizes."""
        return {name: span.most for name, span in self.axes.items()}

    def shapes(self, inputs: Inputs) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Per input its least, best and most shape."""
        corners = [
            {name: getattr(span, corner) for name, span in self.axes.items()}
            for corner in ("least", "best", "most")
        ]
        return {name: tuple(shape(inputs, name, sizes) for sizes in corners) for name in inputs}


Profiles: TypeAlias = "dict[str, tuple[Profile, ...]]"


@dataclass(frozen=True)
class Point:
    """Where a request is computed: a profile's number, and sizes it admits."""

    profile: int
    sizes: tuple[tuple[str, int], ...]

    def size(self, axis: str) -> int:
        """Size of one axis."""
        return dict(self.sizes)[axis]


def shape(inputs: Inputs, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """An input's shape at the given sizes."""
    return tuple(a if isinstance(a, int) else sizes[a] for a in inputs[name][1])


def sizes_of(graph: str, inputs: Inputs, arrays: Arrays) -> Sizes:
    """The sizes of a request's axes."""
    found: Sizes = {}
    for name, (_, axes) in inputs.items():
        for axis, size in zip(axes, arrays[name].shape, strict=True):
            if isinstance(axis, str):
                found[axis] = size
    return {axis: found[axis] for axis in AXES[graph]}


def grid(axis: str, size: int) -> int:
    """The size an axis is padded to, before a profile bounds it."""
    if axis == "patches":
        return size
    if axis in ("rows", "images"):
        return 1 << (size - 1).bit_length()
    if axis == "visual_tokens":  # row 0 stands for "no visual"
        return 1 + -(-(size - 1) // 256) * 256
    step = 16 if size <= 128 else 32 if size <= 512 else 128
    return -(-size // step) * step


def choose(graph: str, profiles: Sequence[Profile], sizes: Sizes) -> Point | None:
    """The point of least work that holds the request, or None where no profile does."""
    best: tuple[int, int, Point] | None = None
    for number, profile in enumerate(profiles):
        at: Sizes = {}
        for axis, size in sizes.items():
            span = profile.axes[axis]
            padded = min(max(grid(axis, size), span.least), span.most)
            if padded < size or (axis == "patches" and padded != size):
                break
            at[axis] = padded
        else:
            work, room = (
                int(np.prod([source[a] for a in _WORK[graph]])) for source in (at, profile.most())
            )
            point = Point(number, tuple(at.items()))
            if best is None or (work, room) < best[:2]:
                best = (work, room, point)
    return best[2] if best is not None else None


def most_of(profiles: Sequence[Profile], axis: str, sizes: Sizes) -> int:
    """The most of one axis that some profile admits beside the other sizes; 0 where none does."""
    others = {name: size for name, size in sizes.items() if name != axis}
    return max(
        (
            p.axes[axis].most
            for p in profiles
            if all(size <= p.axes[name].most for name, size in others.items())
            and ("patches" not in others or p.axes["patches"].least <= others["patches"])
        ),
        default=0,
    )


def pad(inputs: Inputs, arrays: Arrays, point: Point) -> Arrays:
    """A request's arrays at its point; what is added is zeros, whose results are ignored."""
    sizes = dict(point.sizes)
    padded: Arrays = {}
    for name in inputs:
        array = arrays[name]
        wanted = shape(inputs, name, sizes)
        if array.shape != wanted:
            margins = [(0, w - s) for w, s in zip(wanted, array.shape, strict=True)]
            array = np.pad(array, margins)
        padded[name] = array
    return padded


def _text(rows: Any, tokens: Any, visual: Any) -> dict[str, Any]:
    return {"rows": rows, "tokens": tokens, "visual_tokens": visual}


def _vision(images: Any, patches: Any) -> dict[str, Any]:
    return {"images": images, "patches": patches}


# `tokens` are a pack's, of all its rows. `visual_tokens` counts row 0. 256 visual tokens are 1,024
# patches.
PRESETS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "low-latency": {
        VISION: [_vision([1, 1, 1], [4, 1024, 4096]), _vision([1, 8, 16], [4, 256, 1024])],
        TEXT: [_text([1, 1, 1], [1, 32, 128], [1, 1, 257]),
               _text([1, 1, 4], [1, 320, 2048], [1, 257, 2049])],
    },
    "throughput": {
        VISION: [_vision([1, 16, 64], [4, 256, 1024]), _vision([1, 4, 8], [4, 1024, 4096])],
        TEXT: [_text([1, 16, 64], [1, 512, 1024], [1, 33, 1025]),
               _text([1, 8, 64], [1, 2048, 4096], [1, 1025, 4097])],
    },
}  # fmt: skip


def load_profiles(name: str) -> Profiles:
    """Profiles by a preset's name or from a JSON file of the presets' form.

    The file: `{"vision_encoder": [{"images": [least, best, most], "patches": [...]}, ...],
    "text_encoder": [{"rows": [...], "tokens": [...], "visual_tokens": [...]}, ...]}`.

    Raises:
        InvalidOption: no such preset or file, or its content is no set of profiles.
    """
    if name in PRESETS:
        return parse_profiles(PRESETS[name], name)
    path = Path(name)
    if not path.is_file():
        raise InvalidOption(
            f"no profiles {name!r}", fix=f"use {', '.join(PRESETS)}, or a JSON file's path"
        )
    if path.stat().st_size > 1_000_000:
        raise InvalidOption(f"{name} is larger than a set of profiles", fix="name another file")
    try:
        given = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidOption(f"{name} is no JSON: {error}", fix="mend the file") from error
    return parse_profiles(given, name)


def parse_profiles(given: Any, origin: str) -> Profiles:
    """Profiles from their JSON form.

    Raises:
        InvalidOption: it names the entry that is wrong.
    """
    if not isinstance(given, dict) or set(given) != set(AXES):
        raise InvalidOption(f"{origin} must have {' and '.join(AXES)}", fix="see `PRESETS`")
    return {
        graph: tuple(
            _profile(graph, entry, f"{origin}: {graph}[{number}]")
            for number, entry in enumerate(_list(given[graph], f"{origin}: {graph}"))
        )
        for graph in AXES
    }


def as_json(profiles: Profiles) -> dict[str, Any]:
    """The JSON form of profiles."""
    return {
        graph: [
            {axis: [s.least, s.best, s.most] for axis, s in profile.axes.items()}
            for profile in entries
        ]
        for graph, entries in profiles.items()
    }


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list) or not 1 <= len(given) <= 8:
        raise InvalidOption(f"{where} must list one to eight profiles", fix="see `PRESETS`")
    return given


def _profile(graph: str, entry: Any, where: str) -> Profile:
    if not isinstance(entry, dict) or set(entry) != set(AXES[graph]):
        raise InvalidOption(f"{where} must have {', '.join(AXES[graph])}", fix="mend the file")
    return Profile({axis: _span(axis, entry[axis], f"{where}.{axis}") for axis in AXES[graph]})


def _span(axis: str, given: Any, where: str) -> Span:
    whole = isinstance(given, list) and all(type(n) is int for n in given)
    if not whole or len(given) != 3 or not 1 <= given[0] <= given[1] <= given[2]:
        raise InvalidOption(
            f"{where} is {given!r}", fix="give three whole numbers, 1 <= least <= best <= most"
        )
    if given[2] > _LIMIT[axis]:
        raise InvalidOption(f"{where}: {given[2]:,} is too much", fix=f"<= {_LIMIT[axis]:,}")
    if axis == "patches" and any(n % MERGE**2 for n in given):
        raise InvalidOption(f"{where} is {given!r}", fix=f"patches come in {MERGE**2}s")
    return Span(*given)
