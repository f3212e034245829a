"""What a run will take, before anything is loaded: steps, and memory of one process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ume_core.errors import UmeError
from ume_core.loading import locate as locate_alias
from ume_qwen.config import read_config
from ume_train.config.stages import GRPOConfig, SFTConfig, StageConfig
from ume_train.data.source import FileSource

# Parameters of vision tower, merger and language model; hidden size, layers, MLP width, vocabulary.
# Counted on transformers' models of the published config.json files.
_SIZES = {
    "2b": ((631_183_360, 34_087_936, 1_543_714_304), (1536, 28, 8960, 151_936)),
    "7b": ((631_183_360, 44_575_744, 7_615_616_512), (3584, 28, 18_944, 152_064)),
}
# Tokens of a row where no data are at hand: the published answers' mean of 1,645 + 483 characters
# at four a token, and a picture of 512 x 512.
_TOKENS = 532 + 324
_BYTES_PER_TOKEN = 4.0  # of JSON text


def estimate(config: StageConfig, source: FileSource | None, missing: list[str]) -> str:
    """A page for the terminal."""
    lines: list[str] = []
    counts, shape = _size(config.model.start)
    if source is not None:
        lines.append(_data_line(config, source))
    else:
        lines.append(f"data: {', '.join(missing)} not there, so not checked and not counted")
    tokens = _TOKENS if source is None else max(64, int(source.mean_bytes / 2 / _BYTES_PER_TOKEN))
    lines.append(_steps_line(config, source))
    if counts is None or shape is None:
        lines.append(f"memory: {config.model.start} is not here and not a published model's name")
    else:
        lines += _memory(config, counts, shape, tokens)
    return "\n".join(lines)


def _data_line(config: StageConfig, source: FileSource) -> str:
    bad = f", {len(source.bad)} bad ones left out" if source.bad else ""
    held = f", {source.aside:,} more held out" if source.aside else ""
    return (
        f"data: {len(source):,} sound pairs of {len(set(source.names))} data sets{held}{bad}; "
        f"{source.order.batches:,} batches of {source.order.size} a pass, order {config.data.order}"
    )


def _steps_line(config: StageConfig, source: FileSource | None) -> str:
    batch: Any = config.batch  # type: ignore[attr-defined]
    pairs = batch.pairs if isinstance(config, SFTConfig) else batch.pairs_per_reward
    per_step = pairs * batch.accumulate
    steps = config.run.steps
    if steps is None and source is not None:
        updates = config.loss.iterations if isinstance(config, GRPOConfig) else 1
        steps = max(1, int(config.run.epochs * source.order.batches / batch.accumulate)) * updates
    passes = ""
    if steps is not None and source is not None:
        passes = f", {steps * per_step / len(source):.2f} passes over the data"
    many = "unknown" if steps is None else f"{steps:,}"
    saved = "" if steps is None else f", {math.ceil(steps / config.run.save_every)} checkpoints"
    return f"steps: {many} of {per_step:,} pairs ({batch.accumulate} x {pairs}){passes}{saved}"


def _memory(
    config: StageConfig, counts: tuple[int, int, int], shape: tuple[int, int, int, int], tokens: int
) -> list[str]:
    model = config.model
    total = sum(counts)
    hidden, layers, wide, vocabulary = shape
    if model.adapter is not None:
        r = model.adapter.rank
        trained = layers * r * (8 * hidden + 3 * (hidden + wide))
    else:
        parts = (model.vision, model.merger, model.language)
        trained = sum(n for n, on in zip(counts, parts, strict=True) if on)
    weights, gradients, states = 4 * total, 4 * trained, 8 * trained
    chunk: int = config.batch.chunk  # type: ignore[attr-defined]
    rows = 2 * chunk if isinstance(config, SFTConfig) else chunk
    per_layer = 4 * rows * tokens * hidden
    one_layer = 4 * rows * tokens * (8 * hidden + 3 * wide)
    held = (1 if model.gradient_checkpointing else 8) * per_layer * layers
    if not model.gradient_checkpointing:
        held += 4 * rows * tokens * 3 * wide * layers
    logits = 3 * 4 * min(2048, rows * tokens) * vocabulary
    activations = held + one_layer + logits
    extra = 0
    lines = [
        f"parameters: {total:,}, of which {trained:,} train",
        "memory of one process, float32 weights and states, about:",
        f"  weights {_gib(weights)}, gradients {_gib(gradients)}, optimizer {_gib(states)} "
        "(each divided by the processes under FSDP2 or ZeRO-3)",
        f"  activations {_gib(activations)} ({rows} rows of about {tokens:,} tokens a pass, "
        f"gradient checkpointing {'on' if model.gradient_checkpointing else 'off'})",
    ]
    if isinstance(config, GRPOConfig) and config.loss.beta and model.adapter is None:
        extra = 4 * total
        lines.append(f"  the reference model {_gib(extra)}")
    whole = weights + gradients + states + activations + extra
    lines.append(f"  together {_gib(whole)} on one device; an estimate, made from sizes alone")
    return lines


def _size(start: str) -> tuple[tuple[int, int, int] | None, tuple[int, int, int, int] | None]:
    """Parameters by part and the shape of the language model; (None, None) where not known."""
    try:
        place, _ = locate_alias(start)
        path = Path(place) / "config.json"
        if path.is_file():
            return _counted(path)
    except UmeError:
        pass
    found = next((v for k, v in _SIZES.items() if f"-{k}" in start.lower()), None)
    return found if found is not None else (None, None)


def _counted(path: Path) -> tuple[tuple[int, int, int], tuple[int, int, int, int]]:
    import torch
    import transformers

    from ume_qwen.config import ARCHITECTURES
    from ume_torch.checkpoint import quiet_transformers

    config = read_config(path)
    model_class: Any = getattr(transformers, ARCHITECTURES[config["model_type"]])
    settings = dict(config)
    settings["text_config"] = config["text_config"] | dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    with quiet_transformers(), torch.device("meta"):
        model = model_class(model_class.config_class(**settings))
    inner = model.model
    merger = sum(p.numel() for p in inner.visual.merger.parameters())
    vision = sum(p.numel() for p in inner.visual.parameters()) - merger
    tied = config["tie_word_embeddings"]
    head = 0 if tied else sum(p.numel() for p in model.lm_head.parameters())
    language = sum(p.numel() for p in inner.language_model.parameters()) + head
    text = config["text_config"]
    shape = (
        text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"],
        text["vocab_size"],
    )  # fmt: skip
    return (vision, merger, language), shape


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**28 else f"{number / 2**20:.0f} MiB"
