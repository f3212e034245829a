"""Records of the published SFT and RL files as pairs, and what can be wrong with one.

SFT (zhibinlan/UME-sft-train): `qry` and `pos`, each `{conversations: [{from: human, value}, {from:
gpt, value}], image: [paths] | video: [frame paths]}`, and `dataset_name`. `<image>` and `<video>`
in the human's value say where media stand. RL (zhibinlan/UME-rl-train): `qry_text`, `qry_image`
("" if none), `qry_video` ([""] if none), the same of `pos`, `dataset_name` or `dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image as PILImage

from ume_core.errors import InvalidItem
from ume_core.items import IMAGE_SUFFIXES, Image, Item, Text, Video
from ume_core.prompts import GEN_TOKEN, strip_request
from ume_train.data.pairs import Answer, Example

_MARK = re.compile(r"(<image>|<video>)")
_ROLES = {"human": "user", "gpt": "assistant"}
SIDES = ("qry", "pos")


@dataclass(frozen=True)
class Side:
    """One side of a record, before its media are looked at.

    Attributes:
        text: the human's, with marks where media stand, without the request.
        images, video: paths as the record has them; video's are frames, or one file.
        answer: what the assistant says, or None.
    """

    text: str
    images: tuple[str, ...]
    video: tuple[str, ...]
    answer: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """All media."""
        return self.images + self.video


def dataset_of(record: Mapping[str, Any]) -> str:
    """The name of the data set a record is from."""
    for key in ("dataset_name", "dataset", "subset", "source"):
        if isinstance(record.get(key), str) and record[key]:
            return str(record[key])
    return "unnamed"


def side_of(record: Mapping[str, Any], side: str) -> Side:
    """`qry` or `pos` of a record of either file.

    Raises:
        InvalidItem: it is not of the published form.
    """
    if f"{side}_text" in record:
        return _rl_side(record, side)
    entry: object = record.get(side)
    if not isinstance(entry, dict):
        raise InvalidItem(f"no {side!r} and no '{side}_text'", fix="see docs/data.md")
    found = cast("dict[str, Any]", entry)
    turns = _turns(found)
    if [role for role, _ in turns] not in (["user"], ["user", "assistant"]):
        raise InvalidItem(
            f"{side}.conversations has the roles {[role for role, _ in turns]}",
            fix="give a human and a gpt turn",
        )
    answer = turns[1][1] if len(turns) == 2 else None
    images = _paths(found, side, "image", "images")
    video = _paths(found, side, "video", "videos")
    return _checked(side, Side(strip_request(turns[0][1]), images, video, answer))


def problems_of(record: Any, *, answers: bool) -> list[str]:
    """All that is wrong with a record besides its media's files."""
    if not isinstance(record, dict):
        return [f"it is a {type(record).__name__}, not an object"]
    found: list[str] = []
    for name in SIDES:
        try:
            side = side_of(cast("dict[str, Any]", record), name)
        except InvalidItem as error:
            found.append(f"{error.cause}; {error.fix}")
            continue
        if not side.paths and not _MARK.sub("", side.text).strip():
            found.append(f"{name} is empty")
        if answers:
            found += [f"{name}: {problem}" for problem in _answer_problems(side.answer)]
    return found


def media_problems(record: Mapping[str, Any], media: Path | None, *, decode: bool) -> list[str]:
    """Media of a sound record that are not there, stand outside `media`, or cannot be opened."""
    found: list[str] = []
    for name in SIDES:
        for path in side_of(record, name).paths:
            try:
                place = resolve(path, media)
            except InvalidItem as error:
                found.append(error.cause)
                continue
            if not place.is_file():
                found.append(f"{place} does not exist")
            elif decode and place.suffix.lower() in IMAGE_SUFFIXES:
                try:
                    with PILImage.open(place) as image:
                        image.load()
                except Exception as error:  # what decoders raise has no end
                    found.append(f"{place} cannot be decoded: {error}")
    return found


def resolve(path: str, media: Path | None) -> Path:
    """A record's path as a file's.

    Raises:
        InvalidItem: it leads out of the directory of media.
    """
    if media is None:
        raise InvalidItem(f"media {path!r}, and no media directory is given", fix="set data.files")
    root = media.resolve()
    place = (root / path).resolve()
    if not place.is_relative_to(root):
        raise InvalidItem(f"{path!r} leads out of {media}", fix="keep media below it")
    return place


def example_of(
    record: Mapping[str, Any],
    side: str,
    media: Path | None,
    *,
    frame_pixels: int | None,
    place: str,
) -> Example:
    """One side of a sound record.

    Args:
        media: directory of the media.
        frame_pixels: most pixels of a video's frame.
        place: where the record stands.
    """
    found = side_of(record, side)
    images = [resolve(p, media) for p in found.images]
    frames = [resolve(p, media) for p in found.video]
    video = None
    if frames:
        whole = len(frames) == 1 and frames[0].suffix.lower() not in IMAGE_SUFFIXES
        video = Video(frames[0] if whole else frames, max_pixels=frame_pixels)
    parts: list[Text | Image | Video] = []
    for piece in _MARK.split(found.text):
        if piece == "<image>":
            parts.append(Image(images.pop(0)))
        elif piece == "<video>" and video is not None:
            parts.append(video)
        elif piece:
            parts.append(Text(piece))
    answer = None if found.answer is None else Answer(whole=found.answer.rstrip())
    return Example(Item(tuple(parts)), answer, f"{place}, {side}")


def _rl_side(record: Mapping[str, Any], side: str) -> Side:
    text: object = record[f"{side}_text"]
    if not isinstance(text, str):
        raise InvalidItem(f"{side}_text is no text", fix="write a string")
    images = _paths(record, side, f"{side}_image")
    # Upstream takes the video only where there is no image.
    video = () if images else _paths(record, side, f"{side}_video")
    marks = "<image>" * len(images) + "<video>" * bool(video)
    # The space before <disc_emb>: `{Question} \n<disc_emb>` in `qwen_module.py`.
    return Side(f"{marks}{_MARK.sub('', text)} ", images, video, None)


def _turns(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    conversations: object = entry.get("conversations")
    found: list[tuple[str, str]] = []
    if isinstance(conversations, list):
        for turn in cast("list[Any]", conversations):
            if not isinstance(turn, dict):
                raise InvalidItem("a turn is no object", fix="write {from, value}")
            one = cast("dict[str, Any]", turn)
            role, value = one.get("from", one.get("role")), one.get("value", one.get("content"))
            if not isinstance(value, str):
                raise InvalidItem("a turn has no text", fix="write {from, value}")
            role = _ROLES.get(str(role), str(role))
            if role != "system":
                found.append((role, value))
    return found


def _paths(entry: Mapping[str, Any], side: str, *keys: str) -> tuple[str, ...]:
    for key in keys:
        value: object = entry.get(key)
        if value is None or value == "" or value == [""]:
            continue
        many = cast("list[object]", value) if isinstance(value, list) else [value]
        if not all(isinstance(v, str) and v for v in many):
            raise InvalidItem(f"{side}: {key} is {value!r}", fix="write a path or a list of paths")
        return tuple(cast("list[str]", many))
    return ()


def _checked(side: str, found: Side) -> Side:
    """As many marks as media; media without any mark stand first."""
    marks = _MARK.findall(found.text)
    if not marks and found.paths:
        lead = "<image>" * len(found.images) + "<video>" * bool(found.video)
        return Side(lead + found.text, found.images, found.video, found.answer)
    images, videos = marks.count("<image>"), marks.count("<video>")
    if (images, videos) != (len(found.images), bool(found.video)):
        raise InvalidItem(
            f"{side} has {images} <image> and {videos} <video> in its text, and "
            f"{len(found.images)} images and {int(bool(found.video))} videos",
            fix="give one mark for each",
        )
    return found


def _answer_problems(answer: str | None) -> list[str]:
    if answer is None:
        return ["no answer to learn (records of the RL file have none)"]
    found = [mark for mark in ("<think>", "</think>", "<answer>") if mark not in answer]
    problems = [f"the answer has no {', '.join(found)}"] if found else []
    if answer.count(GEN_TOKEN) != 1 or not answer.rstrip().endswith(GEN_TOKEN):
        problems.append(f"the answer does not end in its one {GEN_TOKEN}")
    return problems
