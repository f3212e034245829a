"""From items to rendered prompts, under the conventions in force."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from PIL import Image as PILImage

from ume_core.conventions import Conventions, conventions_in_force
from ume_core.errors import InvalidOption, LimitExceeded
from ume_core.fetch import Access, media_warning
from ume_core.items import Image, Item, Text
from ume_core.options import LoadOptions
from ume_core.prompts import request_warning
from ume_qwen.checkpoint import Checkpoint
from ume_qwen.patches import PatchConfig, Patchifier, VisualInput
from ume_qwen.render import RenderedPrompt, Renderer
from ume_qwen.tokens import Tokenizer

# The official evaluation's collator pairs text-only inputs with a white 28 x 28 picture
# (`eval_collator.py`); qwen-vl-utils makes 56 x 56 of it.
_BLANK = PILImage.new("RGB", (28, 28), (255, 255, 255))


def blank_image() -> Image:
    """The white picture that stands before text-only inputs."""
    return Image(_BLANK)


class Preparer:
    """Turns items into prompts for one checkpoint under one set of options. Thread-safe.

    Attributes:
        options: how the checkpoint was loaded.
        conventions: the choices in force.
        tokenizer: the checkpoint's.
        patchify: reads media and cuts them into patches.
        renderer: lays out prompts.
    """

    def __init__(self, checkpoint: Checkpoint, options: LoadOptions) -> None:
        _choose("thinking", options.thinking, ("full", "short", "none", "skip"))
        context = checkpoint.context_length
        limits = replace(options.limits, input_tokens=min(options.limits.input_tokens, context))
        self.options = options
        self.conventions = conventions_in_force(options, checkpoint.conventions)
        self.tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.config)
        self.patchify = Patchifier(
            _bounded(checkpoint.patches, self.conventions, options),
            Access(options.policy, limits),
            frame_lists=self.conventions.frame_lists,
            draft=options.jpeg_draft,
        )
        self.renderer = Renderer(
            self.tokenizer, checkpoint.chat_template, limits, checkpoint.tokens_per_second
        )
        self._blank_visual = self.patchify.image(blank_image())
        with suppress(
            LimitExceeded
        ):  # a template that cannot work fails now, not at the first item
            self(Item((Text("x"), blank_image())), gen=False)

    def __call__(self, item: Item, *, gen: bool, scope: str = "") -> RenderedPrompt:
        """Read the item's media and lay out its prompt.

        Args:
            item: what to embed.
            gen: whether an answer is generated.
            scope: whose it is; see `RenderedPrompt.scope`.

        Raises:
            UmeError: the item is unreadable, forbidden or too large.
        """
        # Length first: no picture is decoded for an item that is refused anyway.
        self.renderer.check_text(item)
        blank = 0
        if item.media:
            media = self._patchify_all(item, scope)
        elif self.conventions.text_only == "blank":
            item = Item((blank_image(), *item.parts), item.instruction)
            media, blank = (self._blank_visual,), 1
        else:
            media = ()
        rendered = self.renderer.render(
            item,
            media,
            self.conventions.prompt,
            gen=gen,
            media_first=self.conventions.media_order == "media-first",
            constant_media=blank,
        )
        noticed = [request_warning(item.text)]
        policy = self.options.policy
        noticed += [media_warning(p.text, policy) for p in item.parts if isinstance(p, Text)]
        warnings = [warning for warning in noticed if warning is not None]
        warnings += [warning for visual in media for warning in visual.warnings]
        return replace(rendered, warnings=tuple(warnings), scope=scope)

    def _patchify_all(self, item: Item, scope: str) -> tuple[VisualInput, ...]:
        """All media of one item, stopping as soon as they cannot fit one prompt."""
        bound, tokens = self.patchify.access.limits.input_tokens, 0
        media: list[VisualInput] = []
        for part in item.media:
            media.append(self.patchify(part, scope))
            tokens += media[-1].tokens
            if tokens > bound:
                raise LimitExceeded(
                    f"{len(media)} of the item's {len(item.media)} media take {tokens:,} tokens, "
                    f"more than limits.input_tokens ({bound:,})",
                    fix="lower max_pixels or pass fewer of them",
                )
        return tuple(media)


def _bounded(config: PatchConfig, conventions: Conventions, options: LoadOptions) -> PatchConfig:
    """The checkpoint's pixel settings with the bounds in force."""
    low, high = config.min_pixels, config.max_pixels
    if conventions.image_pixels is not None:  # the tighter bound of the two
        low, high = max(low, conventions.image_pixels[0]), min(high, conventions.image_pixels[1])
    low = low if options.min_pixels is None else options.min_pixels
    high = high if options.max_pixels is None else options.max_pixels
    if not 0 < low <= high:
        raise InvalidOption(
            f"min_pixels is {low:,} and max_pixels {high:,}",
            fix="pass whole numbers, min_pixels not above max_pixels",
        )
    return replace(config, min_pixels=low, max_pixels=high)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidOption(f"unknown {name} {value!r}", fix=f"use one of: {', '.join(known)}")
