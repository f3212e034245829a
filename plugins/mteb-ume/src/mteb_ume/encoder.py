"""`UmeEncoder`: what mteb's own wrapper (gen only) leaves out, and faster.

Text-only inputs get the blank picture and media stand first, as in the official evaluation; both
are `LoadOptions` and part of the signature. Task instructions go where the model was trained to
see them, into the user turn, and only if asked for: mteb's wrapper gives none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta

from mteb_ume.meta import model_meta, published_meta
from ume_core import Embedder, Image, Item, ItemLike, Text, Video, load
from ume_core.errors import InvalidItem, InvalidOption, UmeError
from ume_core.items import Part
from ume_core.results import Vectors
from ume_core.signature import Mode

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import Array, BatchedInput, PromptType
    from torch.utils.data import DataLoader


_AT_ONCE = 256  # items embedded together
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")
# What mteb's wrapper puts beside every text, and alone in place of an empty row (2.26.24,
# `ume_r1.py`, after the official evaluation's collator).
_BLANK = np.full((28, 28, 3), 255, dtype=np.uint8)


class UmeEncoder(AbsEncoder):
    """An embedder for `mteb.evaluate`.

    Args:
        model: a name for `ume_core.load`, or a loaded embedder.
        revision: ignored; mteb passes it, and hub ids are pinned.
        device: as in `LoadOptions`.
        mode: `disc` or `gen`.
        instructions: whether queries get their task's instruction.
        max_new_tokens: budget of an answer; None takes the default.
        options: fields of `LoadOptions`, and `engine`.

    Raises:
        InvalidOption: another mode, or an unknown option.
    """

    def __init__(
        self,
        model: str | Embedder,
        revision: str | None = None,  # noqa: ARG002
        device: str | None = None,
        *,
        mode: Mode = "disc",
        instructions: bool = False,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if mode not in ("disc", "gen"):
            raise InvalidOption(f"mode is {mode!r}", fix="use disc or gen, which are one vector")
        if isinstance(model, str):
            if device is not None:
                options["device"] = device
            self.embedder = load(model, **options)
        else:
            self.embedder = model
        self.mode: Mode = mode
        self.instructions = instructions
        self.max_new_tokens = max_new_tokens
        self.mteb_model_meta = model_meta(
            self.embedder,
            mode,
            loader=lambda *_, **__: self,
            instructions=instructions,
            max_new_tokens=max_new_tokens,
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> Array:
        """Vectors float32 (items, dim) of a loader's batches."""
        instruction = None
        if self.instructions and prompt_type is not None and prompt_type.value == "query":
            instruction = self.get_task_instruction(task_metadata, prompt_type)
        features = getattr(getattr(inputs, "dataset", None), "features", None) or {}
        if "video" in features:
            from mteb.models.modality_collators import VideoCollator

            # 8 frames: mteb 2.26.24 `ume_r1.py`, after the official video evaluation's config. Of
            # frames that a task has chosen itself, all.
            chosen = getattr(features["video"], "sampled", False)
            inputs.collate_fn = VideoCollator(
                target_sampling_rate=16000, fps=None, max_frames=None,
                num_frames=None if chosen else 8,
            )  # fmt: skip
        vectors: list[Vectors] = []
        waiting: list[ItemLike] = []
        done = 0
        for batch in inputs:
            waiting += _items(batch, done + len(waiting))
            if len(waiting) >= _AT_ONCE:  # mteb hands over 50,000 documents in one loader
                vectors.append(self._embed(waiting, instruction, done))
                done += len(waiting)
                waiting = []
        if waiting:
            vectors.append(self._embed(waiting, instruction, done))
        return np.concatenate(vectors)

    def _embed(self, items: list[ItemLike], instruction: str | None, first: int) -> Vectors:
        try:
            result = self.embedder.embed(
                items, mode=self.mode, instruction=instruction, max_new_tokens=self.max_new_tokens
            )
        except UmeError as error:
            if error.item is not None:  # of the whole loader
                error.item += first
            raise
        return result.vectors(self.mode)


def _items(batch: Any, first: int) -> list[Item]:
    """A batch's rows; media first, several per row where the dataset has lists.

    Args:
        first: number of the batch's first row, for errors.
    """
    columns = {name: batch[name] for name in ("image", "video", "text") if name in batch}
    if not columns:
        raise InvalidItem(
            f"a batch has only {', '.join(batch)}", fix="use a task of text, image or video"
        )
    count = max(len(values) for values in columns.values())
    items: list[Item] = []
    for row in range(count):
        try:
            items.append(_item({name: values[row] for name, values in columns.items()}))
        except UmeError as error:
            raise error.at(first + row) from None
    return items


def _item(row: dict[str, Any]) -> Item:
    parts: list[Part] = []
    for name, kind in (("image", Image), ("video", Video)):
        value = row.get(name)
        values = value if isinstance(value, list) else [value]
        parts += [kind(_pixels(v)) for v in values if v is not None]
    text = row.get("text") or ""
    if parts:  # beside media the official collator drops placeholders and outer white space
        for placeholder in _PLACEHOLDERS:
            text = text.replace(placeholder, "")
        text = text.strip()
    if text.strip():
        parts.append(Text(text))
    return Item(tuple(parts) or (Image(_BLANK),))


def _pixels(value: Any) -> Any:
    """A collated clip, a tensor (frames, channels, height, width), as frames of pixels."""
    return value.permute(0, 2, 3, 1).numpy() if hasattr(value, "permute") else value


ume_r1_2b: ModelMeta = published_meta("zhibinlan/UME-R1-2B", "gen", UmeEncoder)
ume_r1_2b_disc: ModelMeta = published_meta("zhibinlan/UME-R1-2B", "disc", UmeEncoder)
ume_r1_7b: ModelMeta = published_meta("zhibinlan/UME-R1-7B", "gen", UmeEncoder)
ume_r1_7b_disc: ModelMeta = published_meta("zhibinlan/UME-R1-7B", "disc", UmeEncoder)
