"""From items to rendered prompts: the text-only policy, the media order, the prompt version."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from PIL import Image as PILImage

from ume_core.errors import InvalidOption, LimitExceeded
from ume_core.fetch import Access
from ume_core.items import Image, Item, Text
from ume_core.loading import LoadOptions
from ume_core.prompts import get_prompt
from ume_core.qwen.checkpoint import Checkpoint
from ume_core.qwen.patches import Patchifier, VisualInput
from ume_core.qwen.render import Rendered, Renderer
from ume_core.qwen.tokens import Tokenizer

# The official evaluation's collator pairs text-only inputs with a white 28 x 28 picture (mteb
# 2.26.24 `ume_r1.py`); the published checkpoints' minimum makes 56 x 56 of it.
_BLANK = PILImage.new("RGB", (28, 28), (255, 255, 255))


def blank_image() -> Image:
    """The white picture that stands before text-only inputs."""
    return Image(_BLANK)


class Preparer:
    """Turns items into prompts for one checkpoint under one set of options. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint, options: LoadOptions) -> None:
        _choose("text_only", options.text_only, ("blank", "plain"))
        _choose("media_order", options.media_order, ("media-first", "given"))
        _choose("thinking", options.thinking, ("full", "short", "none", "skip"))
        context = checkpoint.context_length
        limits = replace(options.limits, input_tokens=min(options.limits.input_tokens, context))
        self.options = options
        self.prompt = get_prompt(options.prompt)
        self.tokenizer = Tokenizer(checkpoint.directory)
        self.patchify = Patchifier(
            checkpoint.patches, Access(options.policy, limits), draft=options.jpeg_draft
        )
        self.renderer = Renderer(
            self.tokenizer, checkpoint.chat_template, limits, checkpoint.tokens_per_second
        )
        self._blank_visual = self.patchify.image(blank_image())
        with suppress(
            LimitExceeded
        ):  # a template that cannot work fails now, not at the first item
            self(Item((Text("x"), blank_image())), gen=False)

    def __call__(self, item: Item, *, gen: bool) -> Rendered:
        """Read the item's media and lay out its prompt.

        Raises:
            UmeError: the item is unreadable, forbidden or too large.
        """
        # Length first: no picture is decoded for an item that is refused anyway.
        self.renderer.check_text(item)
        blank = 0
        if item.media:
            media = self._patchify_all(item)
        elif self.options.text_only == "blank":
            item = Item((blank_image(), *item.parts), item.instruction)
            media, blank = (self._blank_visual,), 1
        else:
            media = ()
        media_first = self.options.media_order == "media-first"
        return self.renderer.render(
            item, media, self.prompt, gen=gen, media_first=media_first, constant_media=blank
        )

    def _patchify_all(self, item: Item) -> tuple[VisualInput, ...]:
        """All media of one item, stopping as soon as they cannot fit one prompt."""
        bound, tokens = self.patchify.access.limits.input_tokens, 0
        media: list[VisualInput] = []
        for part in item.media:
            media.append(self.patchify(part))
            tokens += media[-1].tokens
            if tokens > bound:
                raise LimitExceeded(
                    f"{len(media)} of the item's {len(item.media)} media take {tokens:,} tokens, "
                    f"more than limits.input_tokens ({bound:,})",
                    fix="lower max_pixels or pass fewer of them",
                )
        return tuple(media)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidOption(f"unknown {name} {value!r}", fix=f"use one of: {', '.join(known)}")
