"""Loading a checkpoint's weights into transformers' model: all of them, and nothing made up.

transformers fills what a file lacks with random numbers and says so in a warning, some of it (tied
weights in 4.57) not at all. So the tensors are compared with what the model has before they are
given to it, and what it then says is missing is an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Generator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ume_core.errors import CheckpointError, InvalidOption
from ume_qwen.checkpoint import Checkpoint
from ume_qwen.config import ARCHITECTURES
from ume_qwen.weights import EMBED, LM_HEAD, Tensor
from ume_torch.adapter import merge_adapter
from ume_torch.caches import name_compiler_cache

_LOADING = threading.Lock()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The model's own parts; a tensor elsewhere (a value head, say) cannot change an embedding.
_PARTS = ("model.", "lm_head.")


def load_model(checkpoint: Checkpoint, device: str, dtype: str, attention: str) -> Any:
    """The transformers model in eval mode, weights from safetensors only, an adapter merged.

    Args:
        checkpoint: the files.
        device: a torch device string.
        dtype: a key of `DTYPES`.
        attention: `sdpa`, `eager` or `flash_attention_2`.

    Raises:
        CheckpointError: a weight is missing, has another shape, or would not be used; it is named.
        EngineUnavailable: the checkpoint is an adapter, and peft is not installed.
    """
    name_compiler_cache()  # before transformers is imported
    if dtype not in DTYPES:
        raise InvalidOption(f"unknown dtype {dtype!r}", fix=f"use one of: {', '.join(DTYPES)}")
    model_class, config = _architecture(checkpoint)
    found = checkpoint.tensors()
    _check_depth(checkpoint, found)
    with torch.device("meta"):
        wanted = {n: tuple(t.shape) for n, t in model_class(deepcopy(config)).state_dict().items()}
    if checkpoint.config["tie_word_embeddings"]:
        wanted.pop(LM_HEAD, None)
    check_tensors(checkpoint, wanted, found)
    state = _read(found, DTYPES[dtype])
    if checkpoint.config["tie_word_embeddings"]:
        state[LM_HEAD] = state[EMBED]
    # transformers sets the process's default dtype and verbosity while it loads.
    with _LOADING, quiet_transformers():
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            torch_dtype=DTYPES[dtype],
            attn_implementation=attention,
            output_loading_info=True,
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if left := sorted(map(str, report.get(problem) or ())):
            raise CheckpointError(
                f"transformers loads {checkpoint.base} with {len(left)} {problem}, such as "
                f"{left[0]}",
                fix="save it again with the installed transformers",
            )
    model.name_or_path = str(checkpoint.directory)
    if checkpoint.adapter is not None:
        model = merge_adapter(model, checkpoint.adapter)
    return model.to(device).eval()


def _architecture(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """transformers' model class, and the configuration it is built from."""
    import transformers

    model_class = getattr(transformers, ARCHITECTURES[checkpoint.config["model_type"]])
    settings = deepcopy(checkpoint.config)
    # Unused here; transformers' defaults are the published ids, which a small vocabulary lacks.
    settings["text_config"] |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    try:
        with quiet_transformers():
            return model_class, model_class.config_class(**settings)
    except Exception as error:  # what transformers' own checks raise differs between its versions
        raise CheckpointError(
            f"transformers refuses {checkpoint.base / 'config.json'}: {error}",
            fix="take config.json from the published checkpoint",
        ) from error


def _check_depth(checkpoint: Checkpoint, found: Mapping[str, Tensor]) -> None:
    """Compare the number of layers first: a model of absurdly many must not be built to see it."""
    layers = {n.split(".")[3] for n in found if n.startswith("model.language_model.layers.")}
    blocks = {n.split(".")[3] for n in found if n.startswith("model.visual.blocks.")}
    config = checkpoint.config
    for key, count, stored in (
        ("num_hidden_layers", config["text_config"]["num_hidden_layers"], layers),
        ("depth", config["vision_config"]["depth"], blocks),
    ):
        if count > len(stored) + 1000:
            raise CheckpointError(
                f"{checkpoint.base}: config.json says {key} {count}, and the weights have "
                f"{len(stored)}",
                fix="take config.json and weights from one checkpoint",
            )


def check_tensors(
    checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]
) -> None:
    """Compare the weights with what the model has.

    Args:
        checkpoint: the files, for messages.
        wanted: the shape of every weight the model has, by name.
        found: the files' tensors by name.

    Raises:
        CheckpointError: a weight is missing or has another shape, or the files have one that would
            not be used; it names them, and what a missing one may be called.
    """
    missing = [name for name in wanted if name not in found]
    extra = [tensor.key for name, tensor in found.items() if name not in wanted]
    if missing:
        close = get_close_matches(missing[0], extra, n=1)
        hint = f"; {(close or extra)[0]} is there, and not used" if extra else ""
        raise CheckpointError(
            f"{checkpoint.base} lacks {len(missing)} of the model's {len(wanted)} weights: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}{hint}",
            fix="download it again, or save the whole model with save_pretrained()",
        )
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{checkpoint.base}: {found[name].key} has shape {list(found[name].shape)}, and by "
                f"config.json it is {list(shape)}",
                fix="take config.json and weights from one checkpoint",
            )
    own = [t.key for n, t in found.items() if n not in wanted and n.startswith(_PARTS)]
    if own:
        raise CheckpointError(
            f"{checkpoint.base} has {len(own)} weights that the model does not, such as {own[0]}",
            fix="merge an adapter before saving; take config.json and weights from one checkpoint",
        )
    if extra:
        warnings.warn(
            f"{checkpoint.base}: weights outside the model are passed over: {', '.join(extra[:5])}",
            RuntimeWarning,
            stacklevel=3,
        )


def _read(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of the model, copied out of the mapped files, which may change later."""
    state: dict[str, torch.Tensor] = {}
    for file in {tensor.file for tensor in tensors.values()}:
        try:
            with safe_open(file, "pt") as opened:
                for name, tensor in tensors.items():
                    if tensor.file == file and name.startswith(_PARTS):
                        state[name] = opened.get_tensor(tensor.key).to(dtype, copy=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{file} cannot be loaded: {error}", fix="download it again"
            ) from error
    return state


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """No weight-loading bars or advice in the user's terminal."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.ERROR)
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def save_weights(model: Any, directory: Path, dtype: torch.dtype) -> None:
    """model.safetensors of a model, see `save_state`."""
    save_state(model.state_dict(), directory, dtype, tied=model.config.tie_word_embeddings)


def save_state(
    state: Mapping[str, torch.Tensor], directory: Path, dtype: torch.dtype, *, tied: bool
) -> None:
    """model.safetensors of the published layout (hub key names), written in one step.

    Key names are those of transformers up to 4.51 and of the published files: `visual.…`,
    `model.layers.…`, `lm_head.weight` only when untied.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name == LM_HEAD and tied:
            continue
        key = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        tensors[key] = value.detach().to(dtype).contiguous().cpu()
    temporary = directory / "model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, directory / "model.safetensors")
