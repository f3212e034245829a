"""`UmeEncoder` and its `ModelMeta`: what mteb's own wrapper (gen only) leaves out, and faster.

Text-only inputs get the blank picture and media stand first, as in the official evaluation; both
are `LoadOptions` and part of the signature. Task instructions go where the model was trained to
see them, into the user turn, and only if asked for: mteb's wrapper gives none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from ume_core import Embedder, Image, Item, ItemLike, Text, Video, load
from ume_core.items import Part
from ume_core.signature import Mode

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import Array, BatchedInput, PromptType
    from torch.utils.data import DataLoader


class UmeEncoder(AbsEncoder):
    """An embedder for `mteb.evaluate`.

    Args:
        model: a name for `ume_core.load`, or a loaded embedder. mode: `disc` or `gen`.
        instructions: whether queries get their task's instruction.
        options: fields of `LoadOptions`, and `engine`.
    """

    def __init__(
        self,
        model: str | Embedder,
        revision: str | None = None,  # noqa: ARG002 - mteb passes it; hub ids are pinned
        device: str | None = None,
        *,
        mode: Mode = "disc",
        instructions: bool = False,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, str):
            if device is not None:
                options["device"] = device
            self.embedder = load(model, **options)
        else:
            self.embedder = model
        self.mode, self.instructions = mode, instructions
        self.max_new_tokens = max_new_tokens
        self.mteb_model_meta = model_meta(self.embedder, mode)

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
        items: list[ItemLike] = []
        if "video" in getattr(getattr(inputs, "dataset", None), "features", ()):
            from mteb.models.modality_collators import VideoCollator

            # 8 frames: mteb 2.26.24 `ume_r1.py`, after the official video evaluation's config.
            inputs.collate_fn = VideoCollator(
                target_sampling_rate=16000, fps=None, max_frames=None, num_frames=8
            )
        for batch in inputs:
            items += _items(batch)
        result = self.embedder.embed(
            items, mode=self.mode, instruction=instruction,
            max_new_tokens=self.max_new_tokens,
        )  # fmt: skip
        return result.vectors(self.mode)


def _items(batch: Any) -> list[Item]:
    """A batch's rows; media first, several per row where the dataset has lists."""
    columns = {name: batch[name] for name in ("image", "video", "text") if name in batch}
    count = max(len(values) for values in columns.values())
    items: list[Item] = []
    for row in range(count):
        parts: list[Part] = []
        for name, kind in (("image", Image), ("video", Video)):
            if name in columns:
                value = columns[name][row]
                parts += [kind(_pixels(v)) for v in (value if isinstance(value, list) else [value])]
        text = columns["text"][row] if "text" in columns else ""
        if text or not parts:
            parts.append(Text(text or " "))
        items.append(Item(tuple(parts)))
    return items


def _pixels(value: Any) -> Any:
    """A collated clip, a tensor (frames, channels, height, width), as frames of pixels."""
    return value.permute(0, 2, 3, 1).numpy() if hasattr(value, "permute") else value


def model_meta(embedder: Embedder, mode: Mode) -> ModelMeta:
    """What mteb writes beside its results: name with the mode, the signature as the revision."""
    signature = embedder.signature(mode)
    name = signature.model if "/" in signature.model else f"ume/{signature.model}"
    return ModelMeta(
        name=f"{name}-{mode}",
        revision=signature.digest,
        loader=partial(UmeEncoder, embedder, mode=mode),
        release_date=None,
        languages=["eng-Latn"],
        modalities=["text", "image", "video"],
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=embedder.dimensions,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
    )
