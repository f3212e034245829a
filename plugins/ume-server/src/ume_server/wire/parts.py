"""Texts, pictures and clips as clients spell them, to items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ume_core.errors import InvalidItem, MediaError, PolicyViolation, UmeError
from ume_core.fetch import Access, read_source
from ume_core.items import Image, Item, Part, Text, Video, as_item

TOKEN_IDS = (
    "input holds token ids, and another model's ids would give vectors of other texts. "
    "Fix: send strings; in LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False)"
)
_MEDIA: dict[str, type[Image] | type[Video]] = {
    "image": Image, "image_url": Image, "image_base64": Image, "input_image": Image,
    "video": Video, "video_url": Video, "video_base64": Video, "input_video": Video,
}  # fmt: skip
_TEXTS = ("text", "input_text")
_OPTIONS = frozenset(
    "min_pixels max_pixels total_pixels resized_height resized_width fps nframes min_frames "
    "max_frames video_start video_end".split()
)
_OF_IMAGES = frozenset("min_pixels max_pixels resized_height resized_width".split())
_HARMLESS = frozenset(("type", "detail", "uuid", "cache_control"))


class PartReader:
    """Makes items of JSON values."""

    def __init__(self, access: Access, *, urls: bool) -> None:
        """Take the rules of what media may be.

        Args:
            access: the limits, and a policy that opens nothing.
            urls: whether the session fetches http(s) URLs.
        """
        self._access, self._urls = access, urls

    def items(self, value: object, modality: str | None = None) -> list[Item | UmeError]:
        """The items of OpenAI's `input` or `messages`, in all accepted spellings.

        Args:
            value: a string; a list of strings, part objects, lists of parts or conversations; or
                one conversation.
            modality: `image` or `video` where strings are media.

        Raises:
            InvalidItem: it is none of them.
        """
        if isinstance(value, (str, Mapping)):
            return [self._guarded(self.item, value, modality)]
        if not isinstance(value, list):
            raise InvalidItem("input is neither a string nor a list", fix="send one of them")
        if not value:
            raise InvalidItem("input is empty", fix="send at least one item")
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            raise InvalidItem(TOKEN_IDS)
        if any(_is_ids(v) for v in value):
            raise InvalidItem(TOKEN_IDS)
        if all(isinstance(v, Mapping) and "role" in v for v in value):
            return [self._guarded(self.item, value, None)]
        return [self._guarded(self.item, v, modality) for v in value]

    def item(self, value: Any, modality: str | None = None) -> Item:
        """One item.

        Raises:
            UmeError: what is wrong with it.
        """
        if isinstance(value, str):
            if modality in ("image", "video"):
                return Item((self._media(_MEDIA[modality], value, {}),))
            return Item((Text(value),))
        if isinstance(value, list):
            if value and all(isinstance(v, Mapping) and "role" in v for v in value):
                return self._conversation(value)
            return Item(tuple(part for v in value for part in self.parts(v)))
        if isinstance(value, Mapping):
            if "role" in value:
                return self._conversation([value])
            instruction = value.get("instruction")
            if instruction is not None and not isinstance(instruction, str):
                raise InvalidItem("'instruction' is not a string", fix="send the task as text")
            rest = {k: v for k, v in value.items() if k != "instruction"}
            return Item(tuple(self.parts(rest)), instruction or None)
        raise InvalidItem(
            f"an item is {_kind(value)}", fix="send a string, an object or a list of parts"
        )

    def parts(self, value: Any) -> list[Part]:
        """The parts of a string or an object: one content element, or several by key."""
        if isinstance(value, str):
            return [Text(value)]
        if not isinstance(value, Mapping):
            raise InvalidItem(f"a part is {_kind(value)}", fix="send a string or an object")
        given = {k: v for k, v in value.items() if v is not None}
        if "content" in given and "type" not in given:
            content = given["content"]
            members = content if isinstance(content, list) else [content]
            return [part for member in members for part in self.parts(member)]
        kind = given.get("type")
        if isinstance(kind, str) and kind.startswith("input_"):
            given = {kind if k in ("text", "image_url", "video_url") else k: v
                     for k, v in given.items()}  # fmt: skip
        options = {k: v for k, v in given.items() if k in _OPTIONS}
        parts: list[Part] = []
        for key, content in given.items():
            if key in _TEXTS:
                parts += [Text(text) for text in _strings(content, key)]
            elif key in _MEDIA:
                kept = {k: v for k, v in options.items() if _of(_MEDIA[key], k)}
                for source in content if isinstance(content, list) else [content]:
                    parts.append(self._media(_MEDIA[key], source, kept))
            elif key not in _HARMLESS and key not in _OPTIONS:
                raise InvalidItem(
                    f"a part has the unknown key {key[:40]!r}",
                    fix=f"use {', '.join([*_TEXTS, *_MEDIA])}",
                )
        if not parts:
            raise InvalidItem("a part holds nothing to embed", fix="give it a text, image or video")
        return parts

    def _conversation(self, messages: Sequence[Mapping[str, Any]]) -> Item:
        """System text is the instruction; one user turn; an empty assistant turn may follow."""
        turns = list(messages)
        if len(turns) > 1 and turns[-1].get("role") == "assistant":
            if self._text_of(turns[-1]).strip():
                raise InvalidItem(
                    "the conversation ends with an answer", fix="leave the assistant's turn empty"
                )
            turns.pop()
        instruction = None
        if turns and turns[0].get("role") in ("system", "developer"):
            instruction = self._text_of(turns.pop(0)).strip() or None
        roles = [str(turn.get("role"))[:20] for turn in turns]
        if roles != ["user"]:
            raise InvalidItem(
                f"a conversation must have one user message; this one has roles {roles[:8]}",
                fix="put everything to embed into one user message",
            )
        content = turns[0].get("content")
        if isinstance(content, list):
            content = [part for element in content for part in self.parts(element)]
        elif not isinstance(content, str):
            raise InvalidItem("the user message has no content", fix="give it a string or a list")
        # The library's own reading drops the recipe's request, which clients may send along.
        return replace(as_item([{"role": "user", "content": content}]), instruction=instruction)

    def _text_of(self, message: Mapping[str, Any]) -> str:
        content = message.get("content")
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise InvalidItem(
                f"a message's content is {_kind(content)}", fix="send a string or a list"
            )
        parts = [p for element in content for p in self.parts(element)]
        if not all(isinstance(p, Text) for p in parts):
            raise InvalidItem("only the user's turn may hold media", fix="put them there")
        return "".join(p.text for p in parts if isinstance(p, Text))

    def _media(
        self, kind: type[Image] | type[Video], value: object, options: dict[str, Any]
    ) -> Image | Video:
        if isinstance(value, Mapping):
            value = value.get("url")
        if not isinstance(value, str):
            raise InvalidItem(
                f"the {kind.__name__.lower()} is {_kind(value)}", fix="send a data: URL or base64"
            )
        source = value.strip()
        scheme = source[:8].lower()
        if scheme.startswith(("http:", "https:")):
            if not self._urls:
                raise PolicyViolation("URLs are not fetched here", fix="send a data: URL")
            return kind(source, **options)
        if not scheme.startswith("data:"):
            if ":" in source[:32] or not source:
                raise MediaError("the source is no data: URL", fix="send data:…;base64,…")
            source = "data:;base64," + source
        try:
            data = read_source(source, self._access)
        except MediaError:
            raise MediaError(
                "the source is neither a data: URL nor base64, and files here are not opened",
                fix="send data:image/png;base64,…",
            ) from None
        return kind(data, **options)

    def _guarded(self, read: Callable[..., Item], *args: Any) -> Item | UmeError:
        try:
            return read(*args)
        except UmeError as error:
            return error


def fetches(item: Item) -> bool:
    """Whether an item names a URL."""
    return any(isinstance(part.source, str) for part in item.media)


def _is_ids(value: object) -> bool:
    return isinstance(value, int) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], int)
    )


def _of(kind: type, option: str) -> bool:
    return kind is Video or option in _OF_IMAGES


def _strings(value: object, key: str) -> list[str]:
    texts: list[str] = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise InvalidItem(f"{key!r} is {_kind(text)}", fix="send a string")
        texts.append(text)
    return texts


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
