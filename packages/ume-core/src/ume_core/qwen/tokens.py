"""Tokenizing with the special tokens under our control, not the user's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from ume_core.errors import CheckpointError
from ume_core.prompts import DISC_TOKEN, GEN_TOKEN

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
        special: the ids the engine needs.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{directory} has no tokenizer.json", fix="save it with AutoTokenizer (fast)"
            )
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self.added: dict[str, int] = {
            token["content"]: token["id"] for token in config.get("added_tokens", [])
        }
        self._full = RustTokenizer.from_file(str(path))
        # The same model without added tokens, template and truncation: "<gen_emb>" is 8 characters.
        config.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        self._plain = RustTokenizer.from_str(json.dumps(config))
        self.special = SpecialTokens(
            disc=self._require(DISC_TOKEN, directory),
            gen=self._require(GEN_TOKEN, directory),
            image=self._require("<|image_pad|>", directory),
            video=self._require("<|video_pad|>", directory),
            end=self._require("<|im_end|>", directory),
            pad=self._require("<|endoftext|>", directory),
        )

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
