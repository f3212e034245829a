"""What a vector came from; vectors are comparable only if their signatures agree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from ume_core.errors import InvalidOption, SignatureMismatch, did_you_mean

Mode: TypeAlias = Literal["disc", "gen", "both"]
MODES: tuple[Mode, ...] = get_args(Mode)
# The name may be an alias, a path or a hub id for the same weights; the digest decides.
_NAMES_ONLY = frozenset({"model", "aligned"})


@dataclass(frozen=True)
class Signature:
    """Everything that decides an item's vector, besides the item.

    Attributes:
        model: the name it was loaded by.
        weights: SHA-256 prefix of its weights, tokenizer, chat template and configuration.
        mode: `disc` or `gen` for vectors, `both` for a result that holds both.
        prompt: the request after `<disc_emb>`, by name.
        text_only: `blank` (a white picture precedes text-only inputs) or `plain`.
        media_order: `media-first` or `given`.
        frame_lists: whose rule resizes the frames of a list, `utils-0.0.11` or `utils-0.0.14`.
        min_pixels: least height x width of a resized image.
        max_pixels: most height x width of a resized image.
        max_frames: most frames of a video.
        thinking: how gen answers (`full`, `short-N`, `none`, `skip`; `given`: see `BeginsAnswers`).
        decoding: `exact`, or `draft` where JPEGs are decoded at a fraction of their size.
        dtype: the engine's arithmetic.
        dimensions: length of a vector.
        aligned: the model card says that disc and gen share one space.
    """

    model: str
    weights: str
    mode: Mode
    prompt: str
    text_only: str
    media_order: str
    frame_lists: str
    min_pixels: int
    max_pixels: int
    max_frames: int
    dtype: str
    dimensions: int
    aligned: bool = False
    thinking: str = "full"
    decoding: str = "exact"

    def for_mode(self, mode: Mode) -> Signature:
        """The signature of the vectors of one mode."""
        return replace(self, mode=check_mode(mode))

    def differences(self, other: Signature) -> list[str]:
        """What keeps the two from being compared, as `field: mine != theirs`."""
        mine, theirs = asdict(self), asdict(other)
        found: list[str] = []
        for name, value in mine.items():
            if name in _NAMES_ONLY or value == theirs[name]:
                continue
            if name == "mode" and self.aligned and other.aligned:
                continue
            if name == "thinking" and self.mode == other.mode == "disc":
                continue  # <disc_emb> stands before the answer
            found.append(f"{name}: {value} != {theirs[name]}")
        return found

    def check(self, other: Signature) -> None:
        """Refuse to compare vectors of different origin.

        Raises:
            SignatureMismatch: names every field that differs.
        """
        found = self.differences(other)
        if found:
            raise SignatureMismatch(
                f"these vectors cannot be compared ({'; '.join(found)})",
                fix="embed both sides with the same model, mode and settings",
            )

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the fields that matter for comparison."""
        kept = {k: v for k, v in asdict(self).items() if k not in _NAMES_ONLY}
        if self.mode == "disc":
            del kept["thinking"]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files and HTTP answers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Signature:
        """Read `to_dict`'s form.

        Raises:
            SignatureMismatch: fields are missing or unknown (another version wrote it).
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            raise SignatureMismatch(
                f"a stored signature has other fields: {sorted(set(values) ^ known)}",
                fix="embed again with this version; an index is made again with `ume index`",
            )
        return cls(**values)


def check_mode(mode: str) -> Mode:
    """`mode` if it is one.

    Raises:
        InvalidOption: it is not `disc`, `gen` or `both`.
    """
    for known in MODES:
        if mode == known:
            return known
    raise InvalidOption(
        f"unknown mode {mode!r}", fix=f"{did_you_mean(mode, MODES)}use one of: {', '.join(MODES)}"
    )
