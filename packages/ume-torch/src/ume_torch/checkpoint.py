"""Loading a checkpoint's weights into transformers' model."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, cast

import torch

from ume_core.errors import CheckpointError, InvalidOption
from ume_core.qwen.checkpoint import ARCHITECTURES, Checkpoint
from ume_torch.caches import name_compiler_cache

_LOADING = threading.Lock()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(checkpoint: Checkpoint, device: str, dtype: str, attention: str) -> Any:
    """The transformers model in eval mode, weights from safetensors only.

    Args:
        device: a torch device string. dtype: a key of `DTYPES`.
        attention: `sdpa`, `eager` or `flash_attention_2`.
    """
    name_compiler_cache()
    import transformers
    from safetensors import SafetensorError

    if dtype not in DTYPES:
        raise InvalidOption(f"unknown dtype {dtype!r}", fix=f"use one of: {', '.join(DTYPES)}")
    model_class = getattr(transformers, ARCHITECTURES[checkpoint.config["model_type"]])
    # transformers sets the process's default dtype and verbosity while it loads.
    with _LOADING, _quiet_transformers():
        try:
            model, report = model_class.from_pretrained(
                checkpoint.directory,
                torch_dtype=DTYPES[dtype],
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{checkpoint.directory} cannot be loaded: {error}", fix="download it again"
            ) from error
    missing = [k for k in report["missing_keys"] if k != "lm_head.weight"]
    if missing or report.get("mismatched_keys"):
        names = missing or [str(k) for k in report["mismatched_keys"]]
        raise CheckpointError(
            f"{checkpoint.directory} lacks {len(names)} weights, such as {names[0]}",
            fix="download it again",
        )
    return cast("Any", model).to(device).eval()


@contextlib.contextmanager
def _quiet_transformers() -> Any:
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
