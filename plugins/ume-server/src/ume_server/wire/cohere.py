"""`/v2/embed`: Cohere's shape."""

from __future__ import annotations

import uuid
from typing import Any

from ume_core.errors import InvalidItem
from ume_core.session import Embedded
from ume_server.errors import ApiError, public
from ume_server.wire.ask import ONE_VECTOR, Ask, Fields, Served, bad_field
from ume_server.wire.openai import check_dimensions, encoded
from ume_server.wire.parts import PartReader

_KINDS = ("float", "base64")


def read_embed(values: dict[str, Any], served: Served, reader: PartReader) -> tuple[Ask, list[str]]:
    """A request, and the kinds of embeddings it wants.

    Raises:
        ApiError: it is refused whole.
    """
    fields = Fields(values)
    model, mode = served.mode(fields.take("model"), fields.take("mode"))
    if mode == "both":
        raise ApiError(400, ONE_VECTOR, "invalid_mode", "mode")
    check_dimensions(fields, served, "output_dimension")
    if fields.take("truncate") not in (None, "NONE"):
        raise bad_field("truncate", "is not NONE, and nothing is cut here")
    given = {n: fields.take(n) for n in ("texts", "images", "inputs")}
    present = {n: v for n, v in given.items() if v is not None}
    if len(present) != 1:
        raise ApiError(400, "Fix: send exactly one of texts, images and inputs", "invalid_field")
    ((name, value),) = present.items()
    if not isinstance(value, list) or not value:
        raise bad_field(name, "is no list with members")
    if name != "inputs" and not all(isinstance(v, str) for v in value):
        raise bad_field(name, "is no list of strings")
    try:
        items = reader.items(value, "image" if name == "images" else None)
    except InvalidItem as error:
        raise public(error, param=name) from None
    kinds = fields.take("embedding_types") or ["float"]
    if not isinstance(kinds, list) or not set(map(str, kinds)) <= set(_KINDS):
        raise bad_field("embedding_types", f"is no list of some of {', '.join(_KINDS)}")
    ask = Ask(model, items, mode, instruction=fields.text("instruction"))
    ask.max_new_tokens = fields.whole("max_tokens", "max_new_tokens")
    # Cohere's task types name no text to put before an item; the model has no such heads.
    fields.ignore("input_type", "priority")
    ask.ignored = fields.rest()
    return ask, kinds


def embed_answer(
    ask: Ask, kinds: list[str], found: list[Embedded], texts: list[str] | None
) -> dict[str, Any]:
    """The answer."""
    vectors = [v for e in found if (v := e.disc if ask.mode == "disc" else e.gen) is not None]
    tokens = sum(e.record.prompt_tokens for e in found)
    return {
        "id": str(uuid.uuid4()),
        "embeddings": {
            kind: [encoded(v, "base64" if kind == "base64" else "float") for v in vectors]
            for kind in kinds
        },
        "texts": texts,
        "images": None,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": tokens},
            "signature": found[0].signature.digest,
        },
        "response_type": "embeddings_by_type",
    }
