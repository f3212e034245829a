"""The sections that both stages have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of a configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Adapter(Section):
    """Train an adapter of peft in place of the language model's own weights.

    Attributes:
        rank, alpha, dropout: LoRA's.
        dora: weight-decomposed (arXiv 2402.09353).
        init: peft's `init_lora_weights`.
        targets: names of the linear layers it changes.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    dora: bool = True
    init: str | bool = "gaussian"
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


class ModelSection(Section):
    """Which weights a run starts from and trains.

    Attributes:
        start: a checkpoint directory, a name of `ume models`, or a hub id. A Qwen2-VL without
            `<disc_emb>` and `<gen_emb>` gets them first.
        vision, merger, language: which parts train. An adapter trains instead of all of them.
        adapter: none trains the weights themselves.
        gradient_checkpointing: compute activations again in the backward pass.
        precision: of matrix products; weights and optimizer states are float32. `auto` takes
            bfloat16 where the device multiplies it natively.
        prompt, text_only, media_order, frame_lists: as of `ume_core.LoadOptions`; null takes the
            checkpoint's conventions, so that inference renders what was trained.
        min_pixels, max_pixels: of images after resizing; null takes the conventions'.
        video_frame_pixels: most pixels of a video's frame; null takes the conventions'.
    """

    start: str
    vision: bool = False
    merger: bool = True
    language: bool = True
    adapter: Adapter | None = None
    gradient_checkpointing: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    prompt: str | None = None
    text_only: str | None = None
    media_order: str | None = None
    frame_lists: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    video_frame_pixels: int | None = None


class DataFile(Section):
    """One file of records.

    Attributes:
        path: a JSON array or JSON lines of the published form.
        media: directory that the records' media paths are relative to; none outside it is read.
        weight: how often its data sets are drawn, against what their sizes say (order `grouped`).
    """

    path: Path
    media: Path | None = None
    weight: float = Field(default=1.0, ge=0)


class DataSection(Section):
    """What is read, and in which order.

    Attributes:
        files: the records; empty only where `drawn` is set.
        drawn: train on so many pairs that the package draws itself.
        order: `file` takes rows as they stand, as published; `grouped` fills each batch from one
            data set, drawn by size x weight; `shuffled` mixes all.
        buckets: sort so many batches' rows by length before batches are cut; 1 does not.
        bad_records: `error` stops before anything is computed and lists all of them, `skip` leaves
            them out.
        bad_media: what to do when media that exist cannot be decoded: `error`, or `skip` the pair,
            which then takes no part in its batch and is listed in `skipped.jsonl`.
        check_media: `exists` looks for every file, `decode` opens each image too, `none` neither.
        max_tokens: of prompt and answer; a longer row is handled as `bad_media` says.
    """

    files: tuple[DataFile, ...] = ()
    drawn: int = Field(default=0, ge=0)
    order: Literal["file", "grouped", "shuffled"] = "grouped"
    buckets: int = Field(default=1, ge=1)
    bad_records: Literal["error", "skip"] = "error"
    bad_media: Literal["error", "skip"] = "error"
    check_media: Literal["exists", "decode", "none"] = "exists"
    max_tokens: int = Field(default=12_288, ge=1)


class OptimizerSection(Section):
    """How weights change.

    Attributes:
        name: `adamw`; or `muon` for hidden matrices and AdamW for the rest (one process, small
            models).
        lr: peak rate.
        lr_adam: AdamW's beside Muon.
        betas, weight_decay: AdamW's; Muon's weight decay is the same.
        warmup: share of the steps in which the rate rises from 0.
        schedule: how it falls to 0: `cosine`, `linear`, or `hold` (constant, then linear over the
            last 40 %).
        max_grad_norm: gradients are scaled down to it.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)
    lr_adam: float = Field(default=2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "hold"] = "cosine"
    max_grad_norm: float = Field(default=1.0, gt=0)


class RunSection(Section):
    """How long, how often it is saved, and where.

    Attributes:
        steps: optimizer steps; null goes by `epochs`.
        epochs: passes over the data, where `steps` is null.
        save_every: steps between checkpoints.
        keep: how many are kept.
        log_every: steps between rows of the log.
        seed: of data order, sampling and dropout.
        device: `auto` or `cpu`.
        save_dtype: of the weights in `model/`.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    log_every: int = Field(default=1, ge=1)
    seed: int = Field(default=42, ge=0)
    device: Literal["auto", "cpu"] = "auto"
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"


class EvaluateSection(Section):
    """Retrieval on pairs that are never trained on; the best model is kept in `best/`.

    Attributes:
        every: steps between measurements, the last step included; 0 measures nothing.
        pairs: how many, drawn from `files`; where there are none, set aside from the data.
        files: records that are held out. All processes must see them, and the run's directory.
        mode: whose recall is measured: `disc`, `gen`, for which answers are generated as at
            inference, or `both`. The best model has the highest mean of them.
        new_tokens: most tokens of an answer; null takes the engine's limit.
    """

    every: int = Field(default=0, ge=0)
    pairs: int = Field(default=256, ge=2)
    files: tuple[DataFile, ...] = ()
    mode: Literal["disc", "gen", "both"] = "both"
    new_tokens: int | None = Field(default=None, ge=1)
