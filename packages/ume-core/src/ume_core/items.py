"""What can be embedded: text, images, videos and any mix of them.

An `Item` is an ordered sequence of parts plus an optional task instruction. `as_item` accepts the
spellings users already have (`str`, PIL images, paths, arrays, dicts, Qwen chat messages).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from ume_core.errors import InvalidItem
from ume_core.foreign import (
    as_sequence,
    batch_fix,
    is_undecoded,
    item_fix,
    source_expression,
    undecoded_source,
)
from ume_core.frames import FrameSampling
from ume_core.pdf import is_pdf
from ume_core.prompts import strip_request

Array: TypeAlias = npt.NDArray[Any]
MediaSource: TypeAlias = "str | Path | bytes | PILImage.Image | Array"

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .gif .bmp .tif .tiff .ppm .pgm .avif .heic .heif .hif".split()
)
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv"]
)


@dataclass(frozen=True)
class Text:
    """Plain text. Special tokens typed in it are ordinary characters."""

    text: str

    def __post_init__(self) -> None:
        _require(self.text, (str,), "a text", "pass a string")


@dataclass(frozen=True, eq=False)
class Image:
    """One picture.

    Args:
        source: a path, `file://`, `http(s)://` or `data:` URL, the file's bytes, a PIL image, or an
            array of shape (H, W), (H, W, 1|3|4): uint8, or float in [0, 1]. What its EXIF calls
            turned is made upright, a PIL image too, unless `ImageOps.exif_transpose` did it. A
            path may name a page of a PDF: `doc.pdf#page=3` (see `ume_core.pdf`).
        min_pixels: least height x width after resizing; None takes the engine's bound.
        max_pixels: most height x width after resizing, within the engine's bound.
        resized_height: the height wanted, in pixels, instead of the bounds.
        resized_width: the width wanted.
    """

    source: MediaSource
    min_pixels: int | None = None
    max_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None

    def __post_init__(self) -> None:
        _check_source(self.source, "an image")
        _check_options(self)


@dataclass(frozen=True, eq=False)
class Video:
    """One video, or a list of frames that stand for one.

    Args:
        source: a path, URL or the file's bytes; or frames, as a list of image sources or an array
            of shape (T, H, W, 3).
        fps: frames a second to take from a file (default 2). Not together with `nframes`.
        nframes: frames to take from a file, spread evenly.
        min_frames, max_frames: bounds of the count when `fps` decides.
        min_pixels, max_pixels: bounds per frame; `total_pixels`: bound over all frames.
        resized_height, resized_width: the size wanted, in pixels, instead of the bounds.
        video_start, video_end: seconds since the clip's start, whatever its first time stamp is;
            the part of a file to take frames from.
        sample_fps: frames a second that a frame list was sampled at (default 2; Qwen2.5-VL's
            positions depend on it).
    """

    source: MediaSource | Sequence[MediaSource]
    fps: float | None = None
    nframes: int | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None
    video_start: float | None = None
    video_end: float | None = None
    sample_fps: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, (list, tuple)):
            _check_source(self.source, "a video")
            if isinstance(self.source, PILImage.Image):
                raise InvalidItem("a video is one PIL image", fix="pass a list of frames")
        else:
            for frame in self.source:
                _check_source(frame, "a frame")
        _check_options(self)

    @property
    def sampling(self) -> FrameSampling:
        """The part of the options that says which frames are taken."""
        return FrameSampling(self.fps, self.nframes, self.min_frames, self.max_frames)

    @property
    def frames(self) -> list[MediaSource] | None:
        """The frames' sources when the video is given as frames, else None."""
        if isinstance(self.source, np.ndarray):
            return list(self.source)
        if isinstance(self.source, (str, Path, bytes, PILImage.Image)):
            return None
        return list(self.source)


Part: TypeAlias = "Text | Image | Video"
ItemLike: TypeAlias = (
    "Item | Part | str | Path | PILImage.Image | Array | Mapping[str, Any] | Sequence[Any]"
)

_IMAGE_OPTIONS = frozenset(f.name for f in fields(Image)) - {"source"}
_VIDEO_OPTIONS = frozenset(f.name for f in fields(Video)) - {"source"}


@dataclass(frozen=True)
class Item:
    """One thing to embed: parts in order, and the task instruction that precedes their text."""

    parts: tuple[Part, ...]
    instruction: str | None = None

    def __post_init__(self) -> None:
        for part in self.parts:
            _require(part, (Text, Image, Video), "an item's part", "pass Text, Image or Video")
        _require(self.instruction, (str, type(None)), "the instruction", "pass the task as text")
        if not self.parts:
            raise InvalidItem("the item is empty", fix="give it at least one text, image or video")
        has_media = any(not isinstance(p, Text) for p in self.parts)
        if not has_media and not self.text.strip():
            raise InvalidItem("the text is empty", fix="pass a non-empty string, or drop the item")

    @property
    def text(self) -> str:
        """All text parts, joined as the chat template joins them (nothing in between)."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """Images and videos, in order."""
        return tuple(p for p in self.parts if not isinstance(p, Text))

    @property
    def modality(self) -> str:
        """`text`, `image`, `video`, or a `+`-joined mix such as `image+text`."""
        names = {type(p).__name__.lower() for p in self.parts}
        return "+".join(sorted(names))


def as_item(value: ItemLike) -> Item:
    """Turn any accepted spelling into an `Item`.

    `str` is always text. A `Path` is an image or a video by its suffix. A list is the parts of one
    item, in order, or a Qwen conversation when its members have a `role`.

    Raises:
        InvalidItem: the value is not one of the accepted spellings.
    """
    if isinstance(value, Item):
        return value
    if isinstance(value, Mapping):
        entry = value
        if "role" in entry:
            return _from_conversation([entry])
        parts = _parts_of_mapping(entry)
        instruction = entry.get("instruction")
        if instruction is not None and not isinstance(instruction, str):
            raise InvalidItem("'instruction' is not a string", fix="pass the task as text")
        return Item(tuple(parts), instruction)
    if isinstance(value, (list, tuple)):
        members = list(cast("Sequence[Any]", value))
        if members and all(isinstance(m, Mapping) and "role" in m for m in members):
            return _from_conversation(members)
        return Item(tuple(part for member in members for part in _parts(member)))
    return Item(tuple(_parts(value)))


def as_items(values: Sequence[ItemLike]) -> list[Item]:
    """`as_item` over a list; an error names the index of the item it found.

    Raises:
        InvalidItem: `values` is not a list, is a single conversation, or a member is malformed.
    """
    items: list[Item] = []
    for index, value in enumerate(check_batch(values)):
        try:
            items.append(as_item(value))
        except InvalidItem as error:
            raise error.at(index) from None
    return items


def check_batch(values: object) -> Sequence[Any]:
    """The members of a batch: of a list, another sequence, a column, or an array of strings.

    Raises:
        InvalidItem: it is something else that is easily mistaken for one.
    """
    members = as_sequence(values)
    if members is None:
        kind = type(values).__name__
        raise InvalidItem(f"embed() takes a list of items, not {kind}", fix=batch_fix(values))
    if members and all(isinstance(m, Mapping) and "role" in m for m in members):
        raise InvalidItem(
            "this is one conversation, not a list of items", fix="wrap it: embed([messages])"
        )
    return members


def with_instruction(item: Item, instruction: str | None) -> Item:
    """The item with `instruction`, unless it has one of its own."""
    if instruction is None or item.instruction is not None:
        return item
    return replace(item, instruction=instruction)


_WHOLE = (
    "min_pixels max_pixels total_pixels resized_height resized_width nframes min_frames max_frames"
).split()
_POSITIVE = ("fps", "sample_fps")
_TIMES = ("video_start", "video_end")


def _require(value: object, kinds: tuple[type, ...], what: str, fix: str) -> None:
    """Types at run time: callers without a type checker are users too."""
    if not isinstance(value, kinds):
        raise InvalidItem(f"{what} is a {type(value).__name__}", fix=fix)


def _check_source(source: object, what: str) -> None:
    if not isinstance(source, (str, Path, bytes, PILImage.Image, np.ndarray)):
        better = source_expression(source, "value")
        raise InvalidItem(
            f"{what} cannot be a {type(source).__name__}",
            fix=f"pass {better or 'a path, URL, bytes, PIL image or array'}",
        )


def _check_options(part: Image | Video) -> None:
    """Numbers that are no sizes, counts or times are refused before anything is computed."""
    values: dict[str, object] = {f.name: getattr(part, f.name) for f in fields(part)}
    for name in _WHOLE:
        value = values.get(name)
        if value is not None and (not isinstance(value, Integral) or int(value) < 1):
            raise InvalidItem(f"{name} is {value!r}", fix="pass a whole number of at least 1")
    for name in (*_POSITIVE, *_TIMES):
        value = values.get(name)
        if value is None:
            continue
        low = 0.0 if name in _TIMES else 1e-6
        if not isinstance(value, Real) or not low <= float(value) < float("inf"):
            raise InvalidItem(f"{name} is {value!r}", fix="pass a positive, finite number")
    if (part.resized_height is None) != (part.resized_width is None):
        raise InvalidItem("only one of resized_height and resized_width is given", fix="pass both")


def _parts(value: Any) -> list[Part]:
    if isinstance(value, (Text, Image, Video)):
        return [value]
    if isinstance(value, str):
        return [Text(value)]
    if isinstance(value, PILImage.Image):
        return [Image(value)]
    if isinstance(value, Path):
        return [part_from_path(value)]
    if isinstance(value, np.ndarray) and cast("Array", value).dtype.kind not in "SUTO":
        array = cast("Array", value)
        return [Video(array) if array.ndim == 4 else Image(array)]
    if isinstance(value, Mapping):
        return _parts_of_mapping(cast("Mapping[str, Any]", value))
    kind = type(cast("object", value)).__name__
    raise InvalidItem(f"cannot embed a {kind}", fix=item_fix(value))


def part_from_path(path: Path) -> Image | Video:
    """An image or a video, told by the file name's suffix."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or is_pdf(str(path)):
        return Image(path)
    if suffix in VIDEO_SUFFIXES:
        return Video(path)
    raise InvalidItem(
        f"cannot tell from its name whether {path.name!r} is an image or a video",
        fix="wrap it: Image(path) or Video(path)",
    )


def _parts_of_mapping(entry: Mapping[str, Any]) -> list[Part]:
    """`{"text":…, "image":…, "video":…}` (values may be lists), or one Qwen content element.

    An undecoded datasets Image or Video, `{"bytes":…, "path":…}`, is one too.
    """
    if is_undecoded(entry):
        return [_undecoded_part(entry)]
    options = {k: v for k, v in entry.items() if k in _VIDEO_OPTIONS}
    parts: list[Part] = []
    known = {"type", "text", "image", "image_url", "images", "video", "videos", "instruction"}
    for key in entry:
        if key not in known and key not in options:
            keys = sorted(known | _VIDEO_OPTIONS)
            raise InvalidItem(f"unknown key {key!r} in a dict", fix=f"use {', '.join(keys)}")
    for key, value in entry.items():
        if key == "text":
            parts += [Text(t) for t in _strings(value)]
        elif key in ("image", "images", "image_url"):
            image_options = {k: v for k, v in options.items() if k in _IMAGE_OPTIONS}
            parts += [_image(v, image_options) for v in _many(value)]
        elif key == "video":
            parts.append(_video(value, options))
        elif key == "videos":
            parts += [_video(v, options) for v in _many(value)]
    if not parts:
        raise InvalidItem(
            f"a dict with keys {sorted(entry)} holds nothing to embed",
            fix="give it 'text', 'image' or 'video'",
        )
    return parts


def _image(value: Any, options: dict[str, Any]) -> Image:
    if isinstance(value, Image):
        return value
    source = value
    if isinstance(value, Mapping):
        entry = cast("Mapping[str, Any]", value)
        # Undecoded, or the OpenAI form of image_url.
        source = undecoded_source(entry) if is_undecoded(entry) else entry.get("url")
    return Image(cast("MediaSource", source), **options)


def _video(value: Any, options: dict[str, Any]) -> Video:
    if isinstance(value, Video):
        return value
    return Video(undecoded_source(value) if is_undecoded(value) else value, **options)


def _undecoded_part(entry: Mapping[str, Any]) -> Image | Video:
    name: object = entry["path"]
    is_video = isinstance(name, str) and Path(name).suffix.lower() in VIDEO_SUFFIXES
    return Video(undecoded_source(entry)) if is_video else Image(undecoded_source(entry))


def _many(value: Any) -> list[Any]:
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]


def _strings(value: Any) -> list[str]:
    values = _many(value)
    for v in values:
        if not isinstance(v, str):
            raise InvalidItem(f"'text' is a {type(v).__name__}", fix="pass a string")
    return values


def _from_conversation(messages: Sequence[Mapping[str, Any]]) -> Item:
    roles = [m.get("role") for m in messages]
    if len(roles) != 1 or not isinstance(roles[0], str) or roles[0] != "user":
        raise InvalidItem(
            f"a conversation must be one user message; this one has roles {roles}",
            fix="put everything to embed into one user message",
        )
    content = messages[0].get("content")
    if isinstance(content, str):
        return Item((Text(strip_request(content)),))
    if not isinstance(content, (list, tuple)):
        raise InvalidItem("the user message has no content", fix="give it a string or a list")
    parts = [part for element in cast("Sequence[Any]", content) for part in _parts(element)]
    return Item(tuple(_without_request(parts)))


def _without_request(parts: list[Part]) -> list[Part]:
    """The parts without the request that ends the last text; nothing is left of a bare one."""
    for index, part in reversed(list(enumerate(parts))):
        if isinstance(part, Text):
            stripped = strip_request(part.text)
            kept = [Text(stripped)] if stripped or len(parts) == 1 else []
            return [*parts[:index], *kept, *parts[index + 1 :]]
    return parts
