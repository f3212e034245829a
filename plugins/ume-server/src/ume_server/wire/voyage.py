"""`/v1/multimodalembeddings`: Voyage's shape."""

from __future__ import annotations

from typing import Any

from ume_core.errors import InvalidItem
from ume_core.session import Embedded
from ume_server.errors import ApiError, public
from ume_server.wire.ask import ONE_VECTOR, Ask, Fields, Served, bad_field
from ume_server.wire.openai import check_dimensions, encoded
from ume_server.wire.parts import PartReader


def read_multimodal(values: dict[str, Any], served: Served, reader: PartReader) -> Ask:
    """A request.

    Raises:
        ApiError: it is refused whole.
    """
    fields = Fields(values)
    model, mode = served.mode(fields.take("model"), fields.take("mode"))
    if mode == "both":
        raise ApiError(400, ONE_VECTOR, "invalid_mode", "mode")
    check_dimensions(fields, served, "output_dimension")
    # The client asks for it by default, and nothing here is longer than a limit that refuses it.
    fields.ignore("truncation", "input_type")
    encoding = fields.take("output_encoding", "encoding_format")
    if encoding not in (None, "base64"):
        raise bad_field("output_encoding", "is neither null nor base64")
    if fields.take("output_dtype") not in (None, "float"):
        raise bad_field("output_dtype", "is not float")
    inputs = fields.take("inputs")
    if not isinstance(inputs, list) or not all(
        isinstance(i, dict) and isinstance(i.get("content"), list) for i in inputs
    ):
        raise bad_field("inputs", "is no list of objects with a 'content' list")
    try:
        items = reader.items(inputs)
    except InvalidItem as error:
        raise public(error, param="inputs") from None
    ask = Ask(model, items, mode, "base64" if encoding else "float")
    ask.ignored = fields.rest()
    return ask


def multimodal_answer(ask: Ask, found: list[Embedded], pixels: tuple[int, int]) -> dict[str, Any]:
    """The answer.

    Args:
        ask: the request.
        found: its vectors.
        pixels: of pictures, and of videos as they were counted.
    """
    vectors = [v for e in found if (v := e.disc if ask.mode == "disc" else e.gen) is not None]
    tokens = sum(e.record.prompt_tokens for e in found)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": encoded(v, ask.encoding)}
            for i, v in enumerate(vectors)
        ],
        "model": ask.model,
        "usage": {
            "text_tokens": tokens, "image_pixels": pixels[0], "video_pixels": pixels[1],
            "total_tokens": tokens,
        },
    }  # fmt: skip
