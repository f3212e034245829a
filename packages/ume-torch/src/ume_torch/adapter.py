"""Merging an adapter of the peft package into the model it was trained on, as peft does."""

from __future__ import annotations

import warnings
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ume_core.errors import CheckpointError
from ume_qwen.adapter import ADAPTER, CONFIG, Adapter, adapter_name, adapter_settings
from ume_torch.memory import is_out_of_memory


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """The model with the adapter in its weights; the one given is used up.

    Raises:
        CheckpointError: peft is not installed, the adapter cannot be merged, or a tensor of it is
            missing or has no place in the model.
    """
    try:
        import peft
        from peft.utils.save_and_load import set_peft_model_state_dict
    except ImportError as error:
        raise CheckpointError(
            f"{adapter.directory} is a {adapter.config.get('peft_type')} adapter of "
            f"{adapter.config.get('base_model_name_or_path')}, and peft is not installed",
            fix="pip install peft, or merge it into its base first",
        ) from error
    names = set(model.state_dict())
    tensors = _tensors(adapter)
    with warnings.catch_warnings():
        # What peft would warn of is checked below.
        warnings.simplefilter("ignore")
        try:
            wrapped = peft.PeftModel(model, _config(peft, adapter))
            result: Any = set_peft_model_state_dict(wrapped, tensors)
            _check_complete(adapter, result)
            merged = wrapped.eval().merge_and_unload(safe_merge=True)
        except CheckpointError:
            raise
        except Exception as error:  # peft's own checks, which differ between its kinds and versions
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{adapter.directory} cannot be merged into its base: {error}",
                fix=f"check that {CONFIG} names the base it was trained on, or merge it with the "
                "library that trained it",
            ) from error
    if set(merged.state_dict()) != names:
        raise CheckpointError(
            f"{adapter.directory} is a {adapter.config.get('peft_type')} adapter, which peft does "
            "not merge",
            fix="use a LoRA adapter, or one that peft merges",
        )
    return merged


def _config(peft: Any, adapter: Adapter) -> Any:
    settings = adapter_settings(adapter)
    kind = str(settings.get("peft_type"))
    if kind not in peft.PeftType.__members__:
        raise CheckpointError(
            f"{adapter.directory / CONFIG}: peft {peft.__version__} knows no peft_type {kind!r}",
            fix="pip install --upgrade peft",
        )
    config = peft.PeftConfig.from_peft_type(**settings, inference_mode=True)
    unknown = sorted(key for key in settings if not hasattr(config, key))
    if unknown:
        raise CheckpointError(
            f"{adapter.directory / CONFIG}: peft {peft.__version__} knows no {unknown[0]} "
            f"({settings[unknown[0]]!r})",
            fix="pip install --upgrade peft",
        )
    return config


def _tensors(adapter: Adapter) -> dict[str, Any]:
    adapter.tensors()  # checks the file
    try:
        found = load_file(adapter.directory / ADAPTER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{adapter.directory / ADAPTER} cannot be loaded: {error}", fix="download it again"
        ) from error
    return {adapter_name(key): tensor for key, tensor in found.items()}


def _check_complete(adapter: Adapter, result: Any) -> None:
    """Refuse what peft only warns of: it would fill the rest with random or neutral numbers."""
    missing = [key for key in result.missing_keys if ".default" in key]
    if missing or result.unexpected_keys:
        what = f"lacks {missing[0]}" if missing else f"has {result.unexpected_keys[0]}"
        count = len(missing) or len(result.unexpected_keys)
        raise CheckpointError(
            f"{adapter.directory / ADAPTER} does not fit {CONFIG} and the base model: it {what} "
            f"(one of {count} such tensors)",
            fix="check that base_model_name_or_path names the model it was trained on",
        )
