"""The model a run trains: loaded, with what is to stay frozen frozen, and an adapter if asked."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ume_core.conventions import CONVENTIONS_FILE, Conventions
from ume_core.errors import EngineUnavailable, InvalidOption
from ume_core.loading import locate as locate_alias
from ume_core.prompts import PROMPTS
from ume_qwen.checkpoint import Checkpoint, find_checkpoint
from ume_qwen.locate import locate
from ume_torch.checkpoint import load_model, save_state
from ume_torch.linear import cpu_has_bfloat16
from ume_train.config.sections import Adapter, ModelSection
from ume_train.new_tokens import has_tokens, with_tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Trained:
    """A model ready to train.

    Attributes:
        checkpoint: what it was loaded from.
        model: transformers' model; weights float32.
        wrapper: peft's, where an adapter trains.
    """

    checkpoint: Checkpoint
    model: Any
    wrapper: Any = None


def find_start(start: str, work: Path) -> Checkpoint:
    """The checkpoint that a run starts from; one without UME-R1's tokens gets them in `work`.

    Raises:
        CheckpointError: there is none.
    """
    place, _ = locate_alias(start)
    directory = locate(place)
    if not has_tokens(directory):
        directory = with_tokens(directory, work / "start")
    found = find_checkpoint(directory)
    found.weight_files()  # an adapter has none that a run could write again
    return found


def load_trained(checkpoint: Checkpoint, settings: ModelSection) -> Trained:
    """The model with the parts frozen that do not train.

    Raises:
        EngineUnavailable: an adapter is asked for, and peft is not installed.
    """
    model = load_model(checkpoint, "cpu", "float32", "sdpa").train()
    inner = model.model
    parts = {
        "vision": [p for n, p in inner.visual.named_parameters() if not n.startswith("merger.")],
        "merger": list(inner.visual.merger.parameters()),
        "language": [*inner.language_model.parameters(), *model.lm_head.parameters()],
    }
    whole = settings.adapter is None
    for name, parameters in parts.items():
        for parameter in parameters:
            parameter.requires_grad_(whole and getattr(settings, name))
    wrapper = None
    if settings.adapter is not None:
        wrapper = _adapted(model, settings.adapter, checkpoint)
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidOption("nothing trains", fix="set model.vision, merger or language")
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Trained(checkpoint, model, wrapper)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes matrix products in bfloat16 natively."""
    if device.type == "cpu":
        return cpu_has_bfloat16()
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def save_model(
    trained: Trained,
    state: dict[str, Tensor],
    conventions: Conventions,
    directory: Path,
    dtype: str,
) -> None:
    """Write a whole checkpoint of the published layout in place of what is there.

    Args:
        trained: what was trained.
        state: all weights of `trained.model` by name.
        conventions: what it was trained under.
        directory: where it goes.
        dtype: of the weights.
    """
    partial, old = (directory.with_name(f"{directory.name}.{s}") for s in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in trained.checkpoint.side_files():
        shutil.copyfile(path, partial / path.name)
    about = partial / "config.json"
    config = json.loads(about.read_text("utf-8"))
    config.pop("dtype", None)  # transformers 5 writes it so, and reads both
    about.write_text(json.dumps(config | {"torch_dtype": dtype}, indent=2) + "\n", "utf-8")
    tied = bool(trained.checkpoint.config["tie_word_embeddings"])
    if trained.wrapper is None:
        save_state(state, partial, _DTYPES[dtype], tied=tied)
    else:
        adapter = partial / "adapter"
        _save_adapter(trained, state, adapter)
        merged = load_model(find_checkpoint(adapter), "cpu", "float32", "sdpa")
        save_state(merged.state_dict(), partial, _DTYPES[dtype], tied=tied)
    pixels, prompt = conventions.image_pixels, conventions.prompt
    known = PROMPTS.get(prompt.name) == prompt
    stated = {
        "request": prompt.name if known else prompt.generation, "text_only": conventions.text_only,
        "media_order": conventions.media_order, "frame_lists": conventions.frame_lists,
        "image_pixels": None if pixels is None else list(pixels), "aligned": conventions.aligned,
    }  # fmt: skip
    (partial / CONVENTIONS_FILE).write_text(json.dumps(stated, indent=2) + "\n", "utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(partial, directory)
    shutil.rmtree(old, ignore_errors=True)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise EngineUnavailable(
            "an adapter needs peft, which is not installed", fix="pip install peft"
        ) from error
    return peft


def _adapted(model: Any, settings: Adapter, checkpoint: Checkpoint) -> Any:
    peft = _peft()
    names = "|".join(settings.targets)
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        use_dora=settings.dora, init_lora_weights=settings.init,
        target_modules=rf".*language_model\.layers\..*\.({names})",
        base_model_name_or_path=str(checkpoint.directory),
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def _save_adapter(trained: Trained, state: dict[str, Tensor], directory: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as peft writes them."""
    from safetensors.torch import save_file

    peft = _peft()
    directory.mkdir(parents=True)
    named = {f"base_model.model.{name}": value for name, value in state.items()}
    found = peft.get_peft_model_state_dict(trained.wrapper, state_dict=named)
    tensors = {name: value.detach().cpu().contiguous() for name, value in found.items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = trained.wrapper.peft_config["default"]
    config.save_pretrained(str(directory))
