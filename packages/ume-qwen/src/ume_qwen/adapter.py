"""Adapters of the peft package: what a directory says of one, and where its base model is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_qwen.digests import remembered
from ume_qwen.files import read_json
from ume_qwen.locate import locate
from ume_qwen.weights import WEIGHTS, Tensor, canonical_name, read_tensors, tensors_digest

CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
# What peft writes that has no part in the merged weights: how they were trained, and notes.
_NOTES = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode task_type peft_version
    lora_dropout megatron_config megatron_core runtime_config exclude_modules layers_pattern
    layers_to_transform target_modules target_parameters""".split()
)


@dataclass(frozen=True)
class Adapter:
    """An adapter beside, or instead of, a model's own weights.

    Attributes:
        directory: where its two files are.
        config: adapter_config.json.
    """

    directory: Path
    config: dict[str, Any]

    @classmethod
    def find(cls, directory: Path) -> Adapter | None:
        """The adapter in a directory, if there is one.

        Raises:
            CheckpointError: it has no safetensors weights.
        """
        path = directory / CONFIG
        if not path.is_file():
            if (directory / ADAPTER).is_file():
                raise CheckpointError(
                    f"{directory} has {ADAPTER}, but no {CONFIG}",
                    fix=f"copy {CONFIG} to it, or take {ADAPTER} away",
                )
            return None
        if not (directory / ADAPTER).is_file():
            pickled = (directory / "adapter_model.bin").is_file()
            raise CheckpointError(
                f"{directory} is an adapter without {ADAPTER}"
                + ("; its adapter_model.bin is a pickle, which is never loaded" if pickled else ""),
                fix="save it with peft's save_pretrained(), which writes safetensors",
            )
        return cls(directory, read_json(path))

    def base(self) -> Path:
        """The directory of the model it was trained on.

        That is `base_model_name_or_path`, read from where the process runs, as peft does, then from
        the adapter's own directory, then as a hub id; at the adapter's `revision`, else the pinned.

        Raises:
            CheckpointError: it is not there.
        """
        name = self.config.get("base_model_name_or_path")
        if not isinstance(name, str) or not name:
            raise CheckpointError(
                f"{self.directory / CONFIG} does not say which model it belongs to",
                fix="set base_model_name_or_path there to the base model's directory or hub id",
            )
        revision = self.config.get("revision")
        beside = self.directory / name
        try:
            place = str(beside) if beside.is_dir() and not Path(name).is_dir() else name
            return locate(place, revision=revision if isinstance(revision, str) else None)
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.directory} is an adapter of {name!r}, which cannot be found: {error.cause}",
                fix=f"set base_model_name_or_path in its {CONFIG} to the base model's directory or "
                "hub id",
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name.

        Raises:
            CheckpointError: its file is damaged.
        """
        return read_tensors([self.directory / ADAPTER], adapter_name)

    def digest(self) -> list[Any]:
        """What of it decides a vector: its tensors and how they are scaled."""
        kept = {k: v for k, v in self.config.items() if k not in _NOTES and v not in (None, [], {})}
        file = self.directory / ADAPTER
        return [remembered("tensors", [file], lambda: tensors_digest(self.tensors())), kept]


def adapter_name(key: str) -> str:
    """An adapter's tensor as peft names it in transformers' model from 4.52 on."""
    prefix = "base_model.model."
    return prefix + canonical_name(key.removeprefix(prefix)) if key.startswith(prefix) else key


def adapter_settings(adapter: Adapter) -> dict[str, Any]:
    """adapter_config.json for peft: names as in transformers from 4.52 on, empty settings left out.

    Raises:
        CheckpointError: it would have peft import a module by name, or is no adapter's.
    """
    path = adapter.directory / CONFIG
    if adapter.config.get("megatron_config"):
        raise CheckpointError(
            f"{path} has a megatron_config, which makes peft import the module it names",
            fix="set it to null",
        )
    if not isinstance(adapter.config.get("peft_type"), str):
        raise CheckpointError(f"{path} has no peft_type", fix="save it again with peft")
    dropped = ("auto_mapping", "inference_mode", "megatron_core", "peft_version")
    settings = {k: v for k, v in adapter.config.items() if k not in dropped and v is not None}
    return {k: _renamed(k, v) for k, v in settings.items()}


def _renamed(key: str, value: Any) -> Any:
    """The value with modules' names as they are today; a regular expression stays as it is."""
    if key in ("rank_pattern", "alpha_pattern") and isinstance(value, dict):
        return {_module(name): v for name, v in cast("dict[str, Any]", value).items()}
    if key in ("target_modules", "modules_to_save", "exclude_modules") and isinstance(value, list):
        return [_module(str(name)) for name in cast("list[object]", value)]
    return value


def _module(name: str) -> str:
    return canonical_name(name) if name.startswith(("model.", "visual.")) else name


def no_copy(directory: Path) -> CheckpointError:
    """Why an adapter's directory cannot be copied as a checkpoint."""
    return CheckpointError(
        f"{directory} is an adapter, whose base has the {WEIGHTS}",
        fix="merge it first: transformers' from_pretrained() of the base, "
        "peft.PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(DIR), "
        "then copy the tokenizer's and the processor's files to DIR",
    )
