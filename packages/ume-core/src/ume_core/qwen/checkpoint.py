"""Finding a checkpoint of the published layout and reading what stands beside its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from ume_core.conventions import CONVENTIONS_FILE, Conventions, read_conventions
from ume_core.errors import CheckpointError
from ume_core.qwen.patches import PatchConfig
from ume_core.user_cache import recall, remember

ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
# What stands beside the weights in the published layout, by every transformers line.
_SIDE_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "chat_template.json", "chat_template.jinja", CONVENTIONS_FILE,
)  # fmt: skip
_NOTES = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
)
_DIGESTS = "digests.json"  # in the user's cache
# Published revisions: mteb 2.26.24 `ume_r1.py`. Pinning keeps a hub id from changing its vectors.
REVISIONS = {
    "zhibinlan/UME-R1-2B": "e7aaa253cd315be20bd15c8704ad281b4fdf82c9",
    "zhibinlan/UME-R1-7B": "b5c08e3273d979e0f22445306717c39ca8d45df0",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose files were checked.

    Attributes:
        name: what the user called it; part of signatures.
        directory: where its files are.
        config: config.json.
        chat_template: Jinja source.
        patches: preprocessor_config.json.
        conventions: what its `ume_conventions.json` states; None without one.
    """

    name: str
    directory: Path
    config: dict[str, Any]
    chat_template: str
    patches: PatchConfig
    conventions: Conventions | None = None

    @property
    def hidden_size(self) -> int:
        """Width of the embedding."""
        return int(self._text("hidden_size"))

    @property
    def context_length(self) -> int:
        """Most tokens the model was built for."""
        return int(self._text("max_position_embeddings"))

    @property
    def tokens_per_second(self) -> float | None:
        """Qwen2.5-VL's temporal scale of positions; None for Qwen2-VL."""
        if self.config["model_type"] == "qwen2_vl":
            return None
        return float(self.config["vision_config"].get("tokens_per_second", 4))

    def digest(self) -> str:
        """SHA-256, 16 hex digits, over all of it that decides a vector.

        Weights, tokenizer, chat template, configuration, mean and deviation of pixels; the pixel
        bounds are fields of a signature themselves.
        """
        files = [*_weight_files(self.directory), self.directory / "tokenizer.json"]
        settings = [
            files_digest([f for f in files if f.is_file()]), self.chat_template,
            self.patches.mean, self.patches.std, _without_notes(self.config),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def side_files(self) -> list[Path]:
        """Its files besides the weights, of the published layout only.

        Raises:
            CheckpointError: one is a link that leads elsewhere than into a hub cache.
        """
        return [_own(self.directory / n) for n in _SIDE_FILES if (self.directory / n).is_file()]

    def weight_files(self) -> list[Path]:
        """Its weights, and their index where there are several."""
        index = self.directory / "model.safetensors.index.json"
        found = _weight_files(self.directory)
        return [_own(p) for p in (*found, *([index] if len(found) > 1 else []))]

    def _text(self, key: str) -> Any:
        # transformers 4.5x and later nest the text model's fields; the published files are flat.
        nested: dict[str, Any] = self.config.get("text_config") or {}
        return nested[key] if key in nested else self.config[key]


def find_checkpoint(
    model: str | Path, *, name: str | None = None, weights: bool = True
) -> Checkpoint:
    """The checkpoint in a directory, or of a hub id (downloaded at the pinned revision).

    Args:
        weights: whether safetensors must be there; an exported directory has graphs instead.

    Raises:
        CheckpointError: no such directory or hub id, or it is not a UME-R1 checkpoint.
    """
    directory = _locate(model)
    config = _read_json(directory / "config.json", "config.json")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{directory} is a {kind!r} model",
            fix=f"use a checkpoint of type {' or '.join(ARCHITECTURES)}",
        )
    if weights and not _weight_files(directory):
        raise CheckpointError(
            f"{directory} has no .safetensors weights",
            fix="save it with save_pretrained(); pickled .bin files are never loaded",
        )
    preprocessor = directory / "preprocessor_config.json"
    if not preprocessor.is_file():
        # transformers 5.x writes the image processor's settings into processor_config.json.
        nested = _read_json(directory / "processor_config.json", "preprocessor_config.json")
        patches = PatchConfig.from_json(nested.get("image_processor") or {})
    else:
        patches = PatchConfig.from_json(_read_json(preprocessor, preprocessor.name))
    label = name or (str(model) if not Path(model).is_dir() else directory.name)
    return Checkpoint(
        label, directory, config, _chat_template(directory), patches, read_conventions(directory)
    )


def _without_notes(config: Any) -> Any:
    """A configuration without what has no part in a vector."""
    if not isinstance(config, dict):
        return config
    values = cast("dict[str, Any]", config)
    return {k: _without_notes(v) for k, v in values.items() if k not in _NOTES}


def _own(path: Path) -> Path:
    """A file of the checkpoint itself, or one its hub cache links to."""
    target = path.resolve()
    if target.parent != path.parent.resolve() and target.parent.name != "blobs":
        raise CheckpointError(f"{path} links to {target}", fix="copy the file into the checkpoint")
    return path


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 over files, 16 hex digits; remembered per file size and time."""
    key = "|".join(f"{f}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)
    known = recall(_DIGESTS)
    if key in known:
        return known[key]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    known[key] = digest.hexdigest()[:16]
    remember(_DIGESTS, known)
    return known[key]


def _locate(model: str | Path) -> Path:
    path = Path(model)
    if path.is_dir():
        return path.resolve()
    text = str(model)
    if isinstance(model, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"no checkpoint directory {text!r}",
            fix="pass a directory, a hub id such as zhibinlan/UME-R1-2B, or a name (ume models)",
        )
    hub: Any = import_module("huggingface_hub")
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            hub.snapshot_download(
                text,
                revision=REVISIONS.get(text),
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{text!r} is neither a directory nor can it be had from the hub: {reason}",
            fix="check the name and the network, or pass a directory",
        ) from error


def _weight_files(directory: Path) -> list[Path]:
    """The files transformers will read, none of them outside the directory or pickled."""
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    weight_map = _read_json(index, index.name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map", fix="download it again")
    names = {str(n) for n in cast("dict[str, Any]", weight_map).values()}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {name!r}", fix="weights must be .safetensors files beside it"
            )
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} lacks {name}", fix="download it again")
    return sorted(directory / name for name in names)


def _read_json(path: Path, needed: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} is no checkpoint: it has no {needed}",
            fix="pass the directory that holds config.json and model.safetensors",
        )
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", fix="replace it") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object", fix="replace it")
    return cast("dict[str, Any]", value)


def _chat_template(directory: Path) -> str:
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        template = _read_json(path, name).get("chat_template") if path.is_file() else None
        if isinstance(template, str):
            return template
    raise CheckpointError(f"{directory} has no chat template", fix="copy chat_template.json to it")
