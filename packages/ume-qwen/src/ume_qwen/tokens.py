"""Tokenizing with the special tokens under our control, not the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as RustTokenizer

from ume_core.errors import CheckpointError
from ume_core.prompts import DISC_TOKEN, GEN_TOKEN
from ume_qwen.files import optional_json, read_json
from ume_qwen.tokenizer_files import (
    SETTINGS,
    TOKENIZER,
    check_added,
    check_pipeline,
    check_token,
    named_tokens,
    tokenizer_file,
)

# Keys of config.json that name tokens: transformers puts pictures where these ids are.
_CONFIG_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
}

# Texts of fewer bytes for each token allowed are tokenized at once; plain English has 4 to 5.
_BYTES_PER_TOKEN = 8
_PART, _CUT = 16_384, 32  # characters counted together; tokens by which a cut may add to a count


@dataclass(frozen=True)
class SpecialTokens:
    """Ids the engine works with, looked up by name (2B: disc 151658, gen 151657)."""

    disc: int
    gen: int
    image: int
    video: int
    end: int
    pad: int


class Tokenizer:
    """The checkpoint's byte-level BPE with its added tokens taken out of the text's reach.

    Attributes:
        added: every added token and its id.
        named: tokens by the name that a chat template may use (`eos_token`, …).
        special: the ids the engine needs.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any] | None = None) -> None:
        """Read tokenizer.json and what stands beside it.

        Args:
            config: the model's (`ume_qwen.config`), whose token ids must be the tokenizer's.

        Raises:
            CheckpointError: it is missing, not Qwen2's, lacks a token, or its files disagree.
        """
        path = tokenizer_file(directory)
        parsed = _read(path)
        tokens = cast("list[dict[str, Any]]", parsed["added_tokens"])
        self.added: dict[str, int] = {str(t["content"]): int(t["id"]) for t in tokens}
        self.special = SpecialTokens(
            disc=self._require(DISC_TOKEN, directory),
            gen=self._require(GEN_TOKEN, directory),
            image=self._require("<|image_pad|>", directory),
            video=self._require("<|video_pad|>", directory),
            end=self._require("<|im_end|>", directory),
            pad=self._require("<|endoftext|>", directory),
        )
        for token in tokens:
            check_token(path.name, token)
        self._most = max((*parsed["model"]["vocab"].values(), *self.added.values()), default=0)
        settings = optional_json(directory / SETTINGS)
        check_added(directory, self.added, settings)
        self.named = named_tokens(directory, settings)
        try:
            self._full = RustTokenizer.from_file(str(path))
            # The same model without added tokens, template and truncation: "<gen_emb>" is 9
            # characters.
            parsed.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
            self._plain = RustTokenizer.from_str(json.dumps(parsed))
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"{path} cannot be loaded: {error}", fix="replace it") from error
        for name, number in self.added.items():
            # The library counts on from the vocabulary, in the list's order, whatever ids it gives.
            if self._full.token_to_id(name) != number:
                raise CheckpointError(
                    f"{path} lists {name!r} with the id {number}, and the tokenizers library gives "
                    f"it {self._full.token_to_id(name)}",
                    fix="list added_tokens by their ids, without gaps behind the vocabulary",
                )
        if config is not None:
            self._check_ids(directory, config)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; special tokens in it are spelled out."""
        return self._plain.encode(text, add_special_tokens=False).ids if text else []

    def surely_more(self, text: str, bound: int) -> int | None:
        """About how many tokens the beginning of a text has that surely has more than `bound`.

        None for any other text. It takes memory for a part of the text only, where `encode` takes
        up to 600 bytes a character. Counted in parts, a text has a few tokens more for each cut,
        which are allowed for.
        """
        if len(text) <= _PART or len(text.encode()) <= _BYTES_PER_TOKEN * bound:
            return None
        count = 0
        for start in range(0, len(text), _PART):
            count += len(self.encode(text[start : start + _PART])) - _CUT
            if count > bound:
                return count
        return None

    def encode_trusted(self, text: str) -> list[int]:
        """Ids of text whose special tokens are meant (training answers, never user input)."""
        return self._full.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens shown."""
        return self._full.decode(ids, skip_special_tokens=False)

    def token(self, token_id: int) -> str | None:
        """The token with this id."""
        return self._full.id_to_token(token_id)

    def _require(self, token: str, directory: Path) -> int:
        found = self.added.get(token)
        if found is None:
            raise CheckpointError(
                f"{directory} has no {token} token, so it is not a UME-R1 checkpoint",
                fix="use zhibinlan/UME-R1-2B, -7B, ume-nano or a model trained with ume-train",
            )
        return found

    def _check_ids(self, directory: Path, config: Mapping[str, Any]) -> None:
        for key, token in _CONFIG_TOKENS.items():
            if config[key] != self.added.get(token):
                raise CheckpointError(
                    f"config.json says {key} {config[key]}, and {directory / TOKENIZER} gives "
                    f"{token} the id {self.added.get(token, 'of none')}",
                    fix="take config.json and the tokenizer's files from one checkpoint",
                )
        rows: int = config["text_config"]["vocab_size"]
        if self._most >= rows:
            raise CheckpointError(
                f"{directory / TOKENIZER} has ids up to {self._most}, and the model {rows} "
                "embeddings",
                fix="take config.json, weights and tokenizer from one checkpoint",
            )


def tokenizer_digest(directory: Path) -> str:
    """SHA-256, 16 hex digits, over vocabulary, merges and added tokens.

    The pipeline around them is always Qwen2's; how a library writes the file changes nothing.
    """
    parsed = _read(tokenizer_file(directory))
    merges = [m.split(" ") if isinstance(m, str) else m for m in parsed["model"]["merges"]]
    added = sorted((int(t["id"]), str(t["content"])) for t in parsed["added_tokens"])
    content = json.dumps([parsed["model"]["vocab"], merges, added], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    parsed = read_json(path)
    check_pipeline(path, parsed)
    return parsed
