"""One item to one prompt: token ids, placeholders, positions and where `<disc_emb>` stands.

The checkpoint's own chat template lays the turn out. The user's text never meets the template or
the special-token parser: it is put between the template's pieces afterwards and tokenized without
special tokens, so that `<disc_emb>` or `<|image_pad|>` typed by a user are ordinary characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ume_core.errors import CheckpointError, InvalidItem, LimitExceeded
from ume_core.items import Image, Item, Text
from ume_core.limits import Limits
from ume_core.prompts import Prompt
from ume_qwen.patches import VisualInput
from ume_qwen.positions import Positions, mrope_positions
from ume_qwen.template import compile_template, render_template
from ume_qwen.tokens import SpecialTokens, Tokenizer

# Private-use characters that stand for the user's text, and for the recipe's ending after the last
# text, while the template is rendered.
_TEXT = "\uf8ff"
_ENDING = "\uf8fe"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt ready for the model.

    Attributes:
        ids: int64 (tokens,), placeholders expanded.
        positions: int64 (3, tokens), M-RoPE.
        media: in the order of their placeholders.
        media_starts: index of each one's first.
        disc_index: index of `<disc_emb>`.
        prefix: tokens before the user's own content, the same in every such prompt.
        prefix_key: digest of the prefix's tokens and media.
        warnings: what was noticed about the item, for its record.
        scope: whose it is. What caches keep of it, and what packs compute once for several prompts,
            serves prompts of the same scope only, so that none learns from timing what others
            asked for; the prefix is everybody's.
    """

    ids: npt.NDArray[np.int64]
    positions: Positions
    media: tuple[VisualInput, ...]
    media_starts: tuple[int, ...]
    disc_index: int
    prefix: int
    prefix_key: bytes
    warnings: tuple[str, ...] = ()
    scope: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels it holds."""
        return sum(visual.patches.nbytes for visual in self.media)

    def until(self, length: int) -> RenderedPrompt:
        """The first `length` tokens, and the media that begin among them."""
        count = sum(start < length for start in self.media_starts)
        return replace(
            self, ids=self.ids[:length], positions=self.positions[:, :length],
            media=self.media[:count], media_starts=self.media_starts[:count],
        )  # fmt: skip


def layout(
    item: Item, media_first: bool, constant_media: int = 0
) -> tuple[tuple[str, ...], list[str]]:
    """The user turn: kinds of its content elements in order, and the texts among them.

    With `media_first` all media precede all text, which is stripped of placeholders and white space
    unless all media are constant (the blank picture), as in the official evaluation
    (`eval_collator.py`); without it the parts keep their order. The last element is always a
    text: the recipe's ending joins it.
    """
    lead = item.instruction or ""
    media = tuple("image" if isinstance(m, Image) else "video" for m in item.media)
    if media_first:
        text = f"{lead} {item.text}".strip(" ") if lead else item.text
        if len(media) > constant_media:
            text = text.replace("<|image_pad|>", "").replace("<|video_pad|>", "").strip()
        return (*media, "text"), [text]
    kinds = ["text" if isinstance(p, Text) else type(p).__name__.lower() for p in item.parts]
    texts = [p.text for p in item.parts if isinstance(p, Text)]
    if kinds[-1] != "text":
        kinds.append("text")
        texts.append("")
    if lead:
        texts[0] = f"{lead} {texts[0]}".strip(" ")
    return tuple(kinds), texts


class Renderer:
    """Renders items for one checkpoint. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str,
        limits: Limits,
        tokens_per_second: float | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.special: SpecialTokens = tokenizer.special
        self._template = compile_template(chat_template)
        self._limits = limits
        self._tokens_per_second = tokens_per_second
        self._skeleton = lru_cache(maxsize=256)(self._render_skeleton)

    def render(
        self,
        item: Item,
        media: tuple[VisualInput, ...],
        prompt: Prompt,
        *,
        gen: bool,
        media_first: bool = True,
        constant_media: int = 0,
    ) -> RenderedPrompt:
        """Lay out `item`, whose media were already patchified, for one forward pass.

        Args:
            constant_media: how many of the first media are not the user's own (the blank image).

        Raises:
            LimitExceeded: more text or tokens than the limits allow.
        """
        kinds, texts = layout(item, media_first, constant_media)
        before, after = prompt.around_disc(gen)
        texts[-1] += before
        ids: list[int] = []
        spans: list[int | VisualInput] = []
        waiting = list(media)
        starts: list[int] = []
        run = 0  # text tokens since the last image or video
        prefix = disc_index = -1
        for piece in self._skeleton(kinds):
            if isinstance(piece, int) and piece in (self.special.image, self.special.video):
                if prefix < 0 and len(starts) == constant_media:
                    prefix = len(ids)
                visual = waiting.pop(0)
                starts.append(len(ids))
                spans += [run, visual]
                run = 0
                ids += [piece] * visual.tokens
                continue
            if isinstance(piece, int):
                new = [piece]
            else:
                if prefix < 0 and _TEXT in piece:
                    prefix = len(ids)
                # The recipe's tokenizer sees "<text>\n", then <disc_emb>, then "\n<prompt>".
                lead, ending, tail = piece.partition(_ENDING)
                new = self.tokenizer.encode(_fill(lead, texts))
                if ending:
                    disc_index = len(ids) + len(new)
                    new += [self.special.disc, *self.tokenizer.encode_trusted(after + tail)]
            ids += new
            run += len(new)
        if waiting or texts or disc_index < 0:
            raise CheckpointError(
                "the chat template drops content", fix="use Qwen2-VL's chat template"
            )
        spans.append(run)
        if len(ids) > self._limits.input_tokens:
            raise LimitExceeded(
                f"the prompt has {len(ids):,} tokens, more than limits.input_tokens "
                f"({self._limits.input_tokens:,})",
                fix="shorten the text, or lower max_pixels or the number of frames",
            )
        positions = mrope_positions([s for s in spans if s != 0], self._tokens_per_second)
        array = np.array(ids, dtype=np.int64)
        key = blake2b(array[:prefix].tobytes(), digest_size=16)
        for visual in media[:constant_media]:
            key.update(visual.digest)
        return RenderedPrompt(
            array, positions, media, tuple(starts), disc_index, prefix, key.digest()
        )

    def check_text(self, item: Item) -> None:
        """Refuse text beyond `Limits.text_chars`, or surely beyond `Limits.input_tokens`."""
        text = f"{item.instruction or ''}{item.text}"
        if len(text) > self._limits.text_chars:
            raise LimitExceeded(
                f"the text has {len(text):,} characters, more than limits.text_chars "
                f"({self._limits.text_chars:,})",
                fix="split the text",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidItem(
                f"the text is no valid Unicode (character {error.start} is a lone surrogate)",
                fix="decode it with errors='replace'",
            ) from error
        tokens = self.tokenizer.surely_more(text, self._limits.input_tokens)
        if tokens is not None:
            raise LimitExceeded(
                f"the text has more than {tokens:,} tokens, and limits.input_tokens allows "
                f"{self._limits.input_tokens:,}",
                fix="split or shorten the text",
            )

    def _render_skeleton(self, kinds: tuple[str, ...]) -> tuple[str | int, ...]:
        """The template's text with sentinels for the user's, special tokens already ids."""
        content: list[dict[str, str]] = []
        for number, kind in enumerate(kinds):
            if kind == "text":
                ending = _ENDING if number == len(kinds) - 1 else ""
                content.append({"type": "text", "text": _TEXT + ending})
            else:
                content.append({"type": kind, kind: "x"})
        text = self._rendered(content)
        if (text.count(_TEXT), text.count(_ENDING)) != (kinds.count("text"), 1):
            raise CheckpointError(
                "the chat template drops or repeats content", fix="use Qwen2-VL's chat template"
            )
        self._check_text_kept(content, text)
        longest_first = sorted(self.tokenizer.added, key=len, reverse=True)
        pattern = "(" + "|".join(map(re.escape, longest_first)) + ")"
        pieces = [p for p in re.split(pattern, text) if p]
        return tuple(self.tokenizer.added.get(p, p) for p in pieces)

    def _rendered(self, content: list[dict[str, str]]) -> str:
        return render_template(self._template, content, **self.tokenizer.named)

    def _check_text_kept(self, content: list[dict[str, str]], rendered: str) -> None:
        """Refuse a template that would change the user's text, which is put in afterwards."""
        tried = [{k: _in_place(v) for k, v in element.items()} for element in content]
        if self._rendered(tried) != _in_place(rendered):
            raise CheckpointError(
                "the chat template changes the text it is given, such as with `trim`",
                fix="use a chat template that puts text in as it is, as Qwen2-VL's does",
            )


def _in_place(text: str) -> str:
    """Words in the sentinels' place, with everything that templates change about text."""
    return text.replace(_TEXT, " Ab<c>&'\"\u00df  9\n").replace(_ENDING, "\n\n")


def _fill(piece: str, texts: list[str]) -> str:
    """Put the next texts in place of their sentinels."""
    literals = piece.split(_TEXT)
    filled = literals[0]
    for literal in literals[1:]:
        filled += texts.pop(0) + literal
    return filled
