"""How an item becomes a prompt: request, layout, frames and pixels, under one name.

The published model was trained and scored with one set of conventions, which its README does not
show. `official` is the former (UME-R1's `eval_collator.py` and SFT data, with qwen-vl-utils 0.0.11
as in its `setup.sh`), `readme` the latter. A checkpoint trained otherwise says so in a file beside
its weights, `ume_conventions.json`:

```json
{"request": "readme", "text_only": "blank", "media_order": "media-first",
 "frame_lists": "utils-0.0.14", "image_pixels": null, "aligned": false}
```

Every key may be left out, which means `official`'s; `request` is a name or the text itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from ume_core.errors import CheckpointError, InvalidOption
from ume_core.prompts import PROMPTS, Prompt, get_prompt, prompt_of

CONVENTIONS_FILE = "ume_conventions.json"
TEXT_ONLY = ("blank", "plain")
MEDIA_ORDER = ("media-first", "given")
FRAME_LISTS = ("utils-0.0.11", "utils-0.0.14")


@dataclass(frozen=True)
class Conventions:
    """One set of choices; each is a field of the signature too.

    Attributes:
        prompt: the request after `<disc_emb>`.
        text_only: `blank` puts a white 28 x 28 picture before an item without media, `plain`
            nothing.
        media_order: `media-first` is the evaluation's layout (all media, then instruction and
            text, stripped where there are media); `given` keeps the order of the parts.
        frame_lists: whose rule resizes the frames of a list. `utils-0.0.11`: each like an image.
            `utils-0.0.14`: sides to multiples of 56, then the bounds of a video file's frames.
        image_pixels: (min, max) height x width of an image or a listed frame, after the item's own
            bounds; where the checkpoint's are tighter, those. None takes the checkpoint's.
        aligned: disc and gen vectors share one space.
    """

    prompt: Prompt
    text_only: str
    media_order: str
    frame_lists: str
    image_pixels: tuple[int, int] | None
    aligned: bool = False


# 2,359,296: `max_pixels` of SFT, demos and evaluation (`resize_max_pixels`); 784 is one 28 x 28
# token, the evaluation's least (SFT and demos say 768, which rounds up to it).
OFFICIAL = Conventions(
    PROMPTS["one-line"], "blank", "media-first", "utils-0.0.11", (28 * 28, 2_359_296)
)
README = Conventions(PROMPTS["readme"], "plain", "given", "utils-0.0.14", None)
CONVENTIONS = {"official": OFFICIAL, "readme": README}


class ConventionChoices(Protocol):
    """The options that name conventions; None leaves a choice to the bundle."""

    @property
    def conventions(self) -> str | None:
        """The bundle's name."""
        ...

    @property
    def prompt(self) -> str | None:
        """The request's name."""
        ...

    @property
    def text_only(self) -> str | None:
        """See `Conventions.text_only`."""
        ...

    @property
    def media_order(self) -> str | None:
        """See `Conventions.media_order`."""
        ...

    @property
    def frame_lists(self) -> str | None:
        """See `Conventions.frame_lists`."""
        ...

    @property
    def aligned(self) -> bool:
        """See `Conventions.aligned`."""
        ...


def conventions_in_force(options: ConventionChoices, stated: Conventions | None) -> Conventions:
    """The bundle that was asked for, else the checkpoint's own, else `official`; then each choice.

    Args:
        options: what the caller chose.
        stated: the checkpoint's `ume_conventions.json`, if it has one.

    Raises:
        InvalidOption: an unknown bundle, request or choice.
    """
    asked = None if options.conventions is None else _bundle(options.conventions)
    base = asked or stated or OFFICIAL
    return replace(
        base,
        prompt=base.prompt if options.prompt is None else get_prompt(options.prompt),
        text_only=_chosen("text_only", options.text_only, TEXT_ONLY, base.text_only),
        media_order=_chosen("media_order", options.media_order, MEDIA_ORDER, base.media_order),
        frame_lists=_chosen("frame_lists", options.frame_lists, FRAME_LISTS, base.frame_lists),
        aligned=options.aligned or (stated is not None and stated.aligned),
    )


def _bundle(name: str) -> Conventions:
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise InvalidOption(f"unknown conventions {name!r}", fix=f"use one of: {known}")
    return CONVENTIONS[name]


def _chosen(name: str, value: str | None, known: tuple[str, ...], default: str) -> str:
    if value is None:
        return default
    if value not in known:
        raise InvalidOption(f"unknown {name} {value!r}", fix=f"use one of: {', '.join(known)}")
    return value


def read_conventions(directory: Path) -> Conventions | None:
    """What a checkpoint's `ume_conventions.json` states, or None if it has none.

    Raises:
        CheckpointError: the file is damaged, or states something unknown.
    """
    path = directory / CONVENTIONS_FILE
    if not path.is_file():
        return None
    try:
        given: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", fix="write it again") from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} is not a JSON object", fix="write it again")
    try:
        return _stated(cast("dict[str, Any]", given))
    except InvalidOption as error:
        raise CheckpointError(f"{path}: {error.cause}", fix=error.fix) from error


def _stated(given: Mapping[str, Any]) -> Conventions:
    keys = ("request", "text_only", "media_order", "frame_lists", "image_pixels", "aligned")
    for key in given:
        if key not in keys:
            raise InvalidOption(f"unknown key {key!r}", fix=f"use: {', '.join(keys)}")
    request = given.get("request", OFFICIAL.prompt.name)
    if not isinstance(request, str) or not request.strip():
        raise InvalidOption("'request' is not a text", fix="give the request's name or text")
    aligned = given.get("aligned", False)
    if not isinstance(aligned, bool):
        raise InvalidOption("'aligned' is neither true nor false", fix="write true or false")
    return Conventions(
        prompt_of(request),
        _chosen("text_only", given.get("text_only"), TEXT_ONLY, OFFICIAL.text_only),
        _chosen("media_order", given.get("media_order"), MEDIA_ORDER, OFFICIAL.media_order),
        _chosen("frame_lists", given.get("frame_lists"), FRAME_LISTS, OFFICIAL.frame_lists),
        _pixels(given.get("image_pixels", OFFICIAL.image_pixels)),
        aligned,
    )


def _pixels(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        bounds = list(cast("list[object]", value))
        if len(bounds) == 2:
            low, high = bounds
            if isinstance(low, int) and isinstance(high, int) and 0 < low <= high:
                return low, high
    raise InvalidOption(
        f"'image_pixels' is {value!r}",
        fix="write [min, max], or null for the checkpoint's",
    )
