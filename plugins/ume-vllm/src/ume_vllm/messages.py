"""A prompt as a chat request says it, for a server that tokenizes and resizes for itself.

Nothing is left to chance: texts are those of our token ids, pictures have the size that the server
would give them, and `Conversation.read_alike` says whether the server's tokenizer, which takes
spelled special tokens for special, makes the same ids of it all.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from ume_core.errors import InvalidItem, UmeError
from ume_qwen.patches import Patchifier, VisualInput
from ume_qwen.render import RenderedPrompt
from ume_qwen.tokens import Tokenizer


@dataclass
class Conversation:
    """A prompt and the tokens after it.

    Attributes:
        messages: OpenAI's, the last one open where `opens` is not "generation".
        opens: "message" where the last message goes on, "generation" where an answer begins.
        prompt_alike: whether a tokenizer that knows the special tokens reads the prompt's ids.
        read_alike: whether it reads all of the ids.
    """

    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    opens: str = "generation"
    prompt_alike: bool = True
    read_alike: bool = True

    def request(self) -> dict[str, Any]:
        """The part of a request's body that says all this."""
        return {
            "messages": self.messages,
            "add_generation_prompt": self.opens == "generation",
            "continue_final_message": self.opens == "message",
        }


def conversation(
    prompt: RenderedPrompt, more: Sequence[int], tokenizer: Tokenizer, patchify: Patchifier
) -> Conversation:
    """Turns of a prompt and of tokens that follow it.

    Raises:
        InvalidItem: the prompt holds a video, whose frames a chat request cannot carry unharmed.
        UmeError: its template is not one of turns.
    """
    if any(visual.kind == "video" for visual in prompt.media):
        raise InvalidItem(
            "a chat request of vLLM carries a video's frames as JPEG only, which changes them",
            fix="use engine='vllm', in this process, for videos",
        )
    added = tokenizer.added
    start, end = added["<|im_start|>"], added["<|im_end|>"]
    ids, media = _one_place_each(prompt, more)
    found, pictures = Conversation(), iter(media)
    if not ids or ids[0] != start:
        raise _no_turns()
    places = [place for place, token in enumerate(ids) if token == start]
    for place, following in zip(places, [*places[1:], len(ids)], strict=True):
        turn = ids[place + 1 : following]
        closed = end in turn
        body = turn[: turn.index(end)] if closed else turn
        role, _, _ = tokenizer.decode(body).partition("\n")
        if role not in ("system", "user", "assistant") or (not closed and following != len(ids)):
            raise _no_turns()
        head = tokenizer.encode_trusted(f"{role}\n")
        if body[: len(head)] != head:
            raise _no_turns()
        if role == "assistant" and not closed and len(body) == len(head):
            break  # an answer begins
        parts = list(_parts(body[len(head) :], tokenizer, pictures, patchify))
        content: Any = parts if role == "user" else "".join(part["text"] for part in parts)
        found.messages.append({"role": role, "content": content})
        if not closed:
            found.opens = "message"
    found.prompt_alike = _is_read(ids[: len(ids) - len(more)], tokenizer)
    found.read_alike = _is_read(ids, tokenizer) if more else found.prompt_alike
    return found


def _is_read(ids: list[int], tokenizer: Tokenizer) -> bool:
    return tokenizer.encode_trusted(tokenizer.decode(ids)) == ids


def _one_place_each(
    prompt: RenderedPrompt, more: Sequence[int]
) -> tuple[list[int], tuple[VisualInput, ...]]:
    """All ids with one placeholder for each picture."""
    ids: list[int] = []
    done = 0
    given: list[int] = prompt.ids.tolist()
    for visual, first in zip(prompt.media, prompt.media_starts, strict=True):
        ids += given[done : first + 1]
        done = first + visual.tokens
    return [*ids, *given[done:], *more], prompt.media


def _parts(
    body: list[int], tokenizer: Tokenizer, pictures: Iterator[VisualInput], patchify: Patchifier
) -> list[dict[str, Any]]:
    opening = tokenizer.added["<|vision_start|>"]
    parts: list[dict[str, Any]] = []
    text: list[int] = []
    place = 0
    while place < len(body):
        if body[place] == opening and tokenizer.special.image in body[place + 1 : place + 2]:
            if text:
                parts.append({"type": "text", "text": tokenizer.decode(text)})
                text = []
            url = data_url(patchify.pixels(next(pictures))[0])
            parts.append({"type": "image_url", "image_url": {"url": url}})
            place += 3  # with the placeholder and <|vision_end|>
        else:
            text.append(body[place])
            place += 1
    if text:
        parts.append({"type": "text", "text": tokenizer.decode(text)})
    return parts


def data_url(pixels: npt.NDArray[np.uint8]) -> str:
    """A picture (H, W, 3), lossless."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _no_turns() -> UmeError:
    return UmeError(
        "the checkpoint's chat template is not one of turns, and a chat request is",
        fix="use engine='vllm', in this process",
    )
