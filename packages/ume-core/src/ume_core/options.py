"""How a model is loaded: options that every engine obeys, and options of one engine.

What decides vectors or access means the same everywhere and stands in `LoadOptions`. What one
engine alone understands (memory, threads, kernels) is that engine's own frozen dataclass, which its
`BackendSpec.options` names; its fields need defaults and an "Attributes:" section.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ume_core.errors import InvalidOption, did_you_mean
from ume_core.limits import Limits, Policy

DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class LoadOptions:
    """Options every engine obeys.

    Attributes:
        name: the name signatures carry; None takes the directory's or hub name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (bfloat16 on CUDA, float32 on a CPU; an exported model's own), `float32`,
            `bfloat16` or `float16`.
        conventions: `official` (training and evaluation) or `readme` (the published README); None
            takes what the checkpoint states, else `official`. See `ume_core.conventions`.
        prompt: the request after `<disc_emb>`: `one-line` (alias `mteb`), `readme` or `lines`.
            Here and in the next five, None takes the conventions' choice.
        text_only: `blank` (a white picture stands before the text) or `plain`.
        media_order: `media-first` or `given`.
        frame_lists: `utils-0.0.11` or `utils-0.0.14`, the qwen-vl-utils version whose rule resizes
            the frames of a list.
        min_pixels: least height x width of an image after resizing.
        max_pixels: most height x width of an image after resizing.
        thinking: how gen answers: `full` (as trained), `short` (thinking is closed after
            `thinking_tokens`, the summary follows), `none` (the summary alone) or `skip`
            (`<gen_emb>` at once). All but `full` change the vectors, and the signature.
        thinking_tokens: tokens of short thinking.
        jpeg_draft: decode large JPEGs at a fraction of their size; faster, other pixels.
        aligned: the model's card declares disc and gen comparable.
        policy: the files and URLs that items may name.
        limits: the sizes that items may have.
    """

    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    conventions: str | None = None
    prompt: str | None = None
    text_only: str | None = None
    media_order: str | None = None
    frame_lists: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    thinking: str = "full"
    thinking_tokens: int = 64
    jpeg_draft: bool = False
    aligned: bool = False
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse names that no engine knows, and dicts for policies, before anything is loaded.

        Raises:
            InvalidOption: with what is allowed.
        """
        dtype, device = str(self.dtype), str(self.device)
        if dtype not in DTYPES:
            name = dtype.removeprefix("torch.")
            name = {"float": "float32", "half": "float16"}.get(name, name)
            raise InvalidOption(
                f"unknown dtype {self.dtype!r}",
                fix=f"{did_you_mean(name, DTYPES)}use one of: {', '.join(DTYPES)}",
            )
        if not _DEVICE.fullmatch(device):
            raise InvalidOption(
                f"unknown device {self.device!r}", fix="use auto, cpu, cuda or cuda:N"
            )
        for name, kind in (("policy", Policy), ("limits", Limits)):
            value: object = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidOption(
                    f"{name} is a {type(value).__name__}", fix=f"pass ume_core.{kind.__name__}(...)"
                )


@dataclass(frozen=True)
class OptionHelp:
    """One option of an engine, for people.

    Attributes:
        name: the option's name.
        default: its value when nobody sets it.
        text: what it does.
    """

    name: str
    default: object
    text: str


def option_names(options: type | None) -> set[str]:
    """The names of an options class' fields; of None, an engine without options, none."""
    return set() if options is None else {f.name for f in fields(options)}


def describe_options(options: type | None) -> list[OptionHelp]:
    """The options of an engine, with what its class' "Attributes:" section says of each."""
    if options is None:
        return []
    entries = re.split(r"\n {4}(?=\w+:)", inspect.cleandoc(options.__doc__ or ""))
    texts = {name: " ".join(text.split()) for name, _, text in (e.partition(":") for e in entries)}
    return [OptionHelp(f.name, f.default, texts.get(f.name, "")) for f in fields(options)]


def make_options(owner: str, options: type | None, given: Mapping[str, Any]) -> Any:
    """Options from values by name; strings, as commands have them, are converted.

    Args:
        owner: whose options they are, such as "torch engine", for messages.
        options: the options class, or None if there are no options.
        given: values by name.

    Returns:
        An instance of `options`, or None where there are none.

    Raises:
        InvalidOption: there is no such option, or the value does not fit its type.
    """
    names = option_names(options)
    for name in given:
        if name not in names:
            raise InvalidOption(
                f"the {owner} has no option {name!r}",
                fix=f"{did_you_mean(name, names)}use: {', '.join(sorted(names))}"
                if names
                else "leave it out",
            )
    if options is None:
        return None
    kinds = get_type_hints(options)
    return options(**{name: _fitting(name, value, kinds[name]) for name, value in given.items()})


def _fitting(name: str, value: Any, kind: Any) -> Any:
    """The value if it fits the type, or what a string means as one."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for one in kinds:
        if (value is None and one is NoneType) or _is(value, one):
            return value
    for one in kinds:
        converted = _converted(value, one)
        if converted is not None:
            return converted
    wanted = " or ".join("None" if k is NoneType else k.__name__ for k in kinds)
    raise InvalidOption(f"{name} is {value!r}", fix=f"pass {wanted}")


def _is(value: object, kind: type) -> bool:
    """Whether a value has a type; True is no number."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _converted(value: object, kind: type) -> object | None:
    if not isinstance(value, str):
        return float(value) if kind is float and _is(value, int) else None  # type: ignore[arg-type]
    if kind is bool:
        return {"true": True, "false": False}.get(value.lower())
    if kind is Path:
        return Path(value)
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            return None
    return None
