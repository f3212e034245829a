"""The beginning of prompts whose keys and values an exported text graph holds as constants.

It is the prefix of a text-only prompt: system turn, start of the user turn, blank image. Prompts
with media of their own, and those without the blank image, begin with a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_core.items import Item, Text
from ume_core.options import LoadOptions
from ume_qwen.checkpoint import Checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt


@dataclass(frozen=True)
class Prefix:
    """A prompt's beginning.

    Attributes:
        ids: its tokens.
        media: the digests (hex) of the images whose placeholders are among them, by the index of
            each one's first.
    """

    ids: tuple[int, ...]
    media: dict[int, str]

    @classmethod
    def of(cls, prompt: RenderedPrompt) -> Prefix:
        """The whole prompt."""
        digests = [visual.digest.hex() for visual in prompt.media]
        ids = tuple(int(token) for token in prompt.ids)
        return cls(ids, dict(zip(prompt.media_starts, digests, strict=True)))

    def begins(self, prompt: RenderedPrompt) -> bool:
        """Whether the prompt's own prefix is this one or a beginning of it."""
        length = prompt.prefix
        if tuple(prompt.ids[:length].tolist()) != self.ids[:length]:
            return False
        media = zip(prompt.media_starts, prompt.media, strict=True)
        within = {start: visual.digest.hex() for start, visual in media if start < length}
        return within == {start: d for start, d in self.media.items() if start < length}

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return {"ids": list(self.ids), "media": self.media}

    @classmethod
    def from_json(cls, given: Any) -> Prefix:
        """From a manifest.

        Raises:
            CheckpointError: it is none.
        """
        try:
            ids: object = given["ids"]
            if not isinstance(ids, list) or any(type(n) is not int for n in cast("Any", ids)):
                raise ValueError("its ids are no list of whole numbers")
            media = {int(start): str(digest) for start, digest in given["media"].items()}
            return cls(tuple(cast("list[int]", ids)), media)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"the manifest's prefix is damaged: {error!r}", fix="export again"
            ) from error


def prefix_prompt(checkpoint: Checkpoint) -> RenderedPrompt:
    """The prefix of the checkpoint's text-only prompts, under the default policies."""
    prompt = Preparer(checkpoint, LoadOptions())(Item((Text("x"),)), gen=False)
    return prompt.until(prompt.prefix)
