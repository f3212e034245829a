"""A checkpoint of the published layout: its files, what they say, and one digest over it all.

The rules are transformers': which file wins (`processor`, `template`), which settings count
(`config`, `tokenizer_files`), what weights are called (`weights`). What the engines would not
follow is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ume_core.conventions import CONVENTIONS_FILE, Conventions, read_conventions
from ume_core.errors import CheckpointError
from ume_qwen.adapter import Adapter, no_copy
from ume_qwen.config import read_config, read_generation
from ume_qwen.digests import remembered
from ume_qwen.files import check_content, optional_json
from ume_qwen.locate import locate, own_file
from ume_qwen.patches import PatchConfig
from ume_qwen.processor import PROCESSOR_FILES, read_patch_config
from ume_qwen.template import (
    JINJA,
    MORE,
    TEMPLATE_FILES,
    has_template,
    read_template,
    used_tokens,
)
from ume_qwen.tokenizer_files import (
    LEGACY_FILES,
    SETTINGS,
    TOKENIZER,
    named_tokens,
    tokenizer_file,
)
from ume_qwen.tokens import tokenizer_digest
from ume_qwen.weights import (
    EMBED,
    INDEX,
    LM_HEAD,
    WEIGHTS,
    Tensor,
    foreign_weights,
    has_weights,
    read_tensors,
    same_content,
    tensors_digest,
    weight_files,
)

_MODEL_FILES = ("config.json", "generation_config.json")
_TOKENIZER_FILES = (TOKENIZER, SETTINGS, *LEGACY_FILES)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were checked.

    Attributes:
        name: what the user called it; part of signatures.
        directory: the one it was asked for by; an adapter's, where it is one.
        base: where the model's own files are; `directory`, unless that is an adapter's.
        adapter: what peft has to merge into the weights.
        config: config.json in one form (`ume_qwen.config`).
        chat_template: Jinja source.
        patches: the image and video processors' settings.
        conventions: what its `ume_conventions.json` states; None without one.
    """

    name: str
    directory: Path
    base: Path
    adapter: Adapter | None
    config: dict[str, Any]
    chat_template: str
    patches: PatchConfig
    conventions: Conventions | None = None

    @property
    def hidden_size(self) -> int:
        """Width of the embedding."""
        return int(self.config["text_config"]["hidden_size"])

    @property
    def context_length(self) -> int:
        """Most tokens the model was built for."""
        return int(self.config["text_config"]["max_position_embeddings"])

    @property
    def tokens_per_second(self) -> float | None:
        """Qwen2.5-VL's temporal scale of positions; None for Qwen2-VL."""
        if self.config["model_type"] == "qwen2_vl":
            return None
        return float(self.config["vision_config"]["tokens_per_second"])

    @property
    def tokenizer(self) -> Path:
        """The directory of the tokenizer: an adapter may bring its own."""
        return _tokenizer_place(self.directory, self.base)

    def tensors(self) -> dict[str, Tensor]:
        """The model's own weights by name (`ume_qwen.weights.canonical_name`).

        Where the embeddings are tied they are `EMBED` alone, whichever of the two is stored.

        Raises:
            CheckpointError: a file is damaged, or embeddings that config.json ties differ.
        """
        found = read_tensors(weight_files(self.base))
        if not self.config["tie_word_embeddings"] or LM_HEAD not in found:
            return found
        head = found.pop(LM_HEAD)
        if not same_content(head, found.setdefault(EMBED, head)):
            raise CheckpointError(
                f"{self.base}: config.json ties {LM_HEAD} to the embeddings "
                "(tie_word_embeddings), and the weights have two different ones",
                fix="set tie_word_embeddings to false if the model was trained so, else save it "
                "again",
            )
        return found

    def digest(self) -> str:
        """SHA-256, 16 hex digits, over all of it that decides a vector.

        Weights, an adapter, vocabulary, chat template, configuration and processor settings: what
        they say, not how files spell it, so that a checkpoint keeps its digest when it is saved
        again or sharded. The pixel bounds of images are fields of a signature themselves.
        """
        patches = self.patches
        kind = "tied tensors" if self.config["tie_word_embeddings"] else "tensors"
        settings = [
            remembered(kind, weight_files(self.base), lambda: tensors_digest(self.tensors())),
            self.adapter.digest() if self.adapter is not None else None,
            remembered(
                "tokenizer", [self.tokenizer / TOKENIZER], lambda: tokenizer_digest(self.tokenizer)
            ),
            self.chat_template, used_tokens(self.chat_template, self._named_tokens()),
            patches.mean, patches.std, patches.rescale_factor, patches.video_bounds,
            self.config,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def side_files(self) -> list[Path]:
        """Its files besides the weights, of the published layout only, one of each name.

        Raises:
            CheckpointError: one is a link that leads elsewhere than into a hub cache, or the chat
                template stands apart from them.
        """
        place = _template_place(self.directory, self.base)
        if (place / MORE).is_dir() and not any((place / name).is_file() for name in TEMPLATE_FILES):
            raise CheckpointError(
                f"{place} has its chat template in {MORE}/ only",
                fix=f"copy {MORE}/default.jinja to {JINJA}",
            )
        places = [
            (self.base, _MODEL_FILES),
            (self.tokenizer, _TOKENIZER_FILES),
            (_processor_place(self.directory, self.base), PROCESSOR_FILES),
            (place, TEMPLATE_FILES),
            (_conventions_place(self.directory, self.base), (CONVENTIONS_FILE,)),
        ]
        found = [place / name for place, names in places for name in names]
        return [own_file(path) for path in found if path.is_file()]

    def weight_files(self) -> list[Path]:
        """Its weights, and their index where there are several.

        Raises:
            CheckpointError: it is an adapter: its weights are in no file until they are merged.
        """
        if self.adapter is not None:
            raise no_copy(self.directory)
        found = weight_files(self.base)
        index = [] if found == [self.base / WEIGHTS] else [self.base / INDEX]
        return [own_file(path) for path in (*found, *index)]

    def _named_tokens(self) -> dict[str, str]:
        return named_tokens(self.tokenizer, optional_json(self.tokenizer / SETTINGS))


def find_checkpoint(
    model: str | Path, *, name: str | None = None, weights: bool = True
) -> Checkpoint:
    """The checkpoint in a directory, or of a hub id (downloaded at the pinned revision).

    A directory with adapter_config.json is an adapter. As in transformers 5.x, weights that stand
    beside it are its base; else the base is found by its `base_model_name_or_path`. The tokenizer,
    the processor's settings and the chat template are the adapter's own where it has them.

    Args:
        weights: whether safetensors must be there; an exported directory has graphs instead.

    Raises:
        CheckpointError: no such directory or hub id, or it is not a UME-R1 checkpoint.
    """
    directory = locate(model)
    adapter = Adapter.find(directory) if weights else None
    base = directory if adapter is None else _base(adapter)
    if not (base / "config.json").is_file():
        raise foreign_weights(base) or CheckpointError(
            f"{base} is no checkpoint: it has no config.json",
            fix="pass the directory that holds config.json and model.safetensors",
        )
    config = read_config(base / "config.json")
    if weights:
        for file in weight_files(base):
            check_content(file)
        read_generation(base)
    tokenizer = tokenizer_file(_tokenizer_place(directory, base)).parent
    settings = optional_json(tokenizer / SETTINGS)
    template = read_template(_template_place(directory, base), settings)
    label = name or (str(model) if not Path(model).is_dir() else directory.name)
    patches = read_patch_config(_processor_place(directory, base))
    conventions = read_conventions(_conventions_place(directory, base))
    return Checkpoint(label, directory, base, adapter, config, template, patches, conventions)


def _base(adapter: Adapter) -> Path:
    """Where the weights are that an adapter changes."""
    directory = adapter.directory
    # transformers would take pickled weights beside it for the base, so they are not passed over.
    if has_weights(directory) or any(directory.glob("pytorch_model*.bin")):
        return directory
    base = adapter.base()
    if Adapter.find(base) is not None:
        raise CheckpointError(
            f"{directory} is an adapter of {base}, which is an adapter too",
            fix="merge that one into its base first",
        )
    return base


def _tokenizer_place(directory: Path, base: Path) -> Path:
    return directory if (directory / TOKENIZER).is_file() else base


def _conventions_place(directory: Path, base: Path) -> Path:
    return directory if (directory / CONVENTIONS_FILE).is_file() else base


def _processor_place(directory: Path, base: Path) -> Path:
    own = any((directory / name).is_file() for name in PROCESSOR_FILES)
    return directory if own else base


def _template_place(directory: Path, base: Path) -> Path:
    return directory if has_template(directory) else base
