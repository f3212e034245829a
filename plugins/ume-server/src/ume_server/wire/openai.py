"""`/v1/embeddings`: OpenAI's shape, with what Jina, Infinity, vLLM and Dify add to it."""

from __future__ import annotations

import base64
from typing import Any, cast

import numpy as np

from ume_core.embedder import Sampling
from ume_core.errors import InvalidItem, UmeError
from ume_core.results import Record, Vectors
from ume_core.session import Embedded, Lane
from ume_server.errors import ApiError, public
from ume_server.wire.ask import Ask, Encoding, Fields, Served, bad_field
from ume_server.wire.parts import PartReader

_REFUSED = {
    "task": "send the task as 'instruction'",
    "prompt": "send the task as 'instruction'",
    "prompt_name": "send the task as 'instruction'",
    "input_type": "send the task as 'instruction'",
    "chat_template": "leave it out: the checkpoint's own is used",
    "chat_template_kwargs": "leave it out: the checkpoint's own template is used",
    "mm_processor_kwargs": "give pictures their own min_pixels and max_pixels",
    "hf_overrides": "leave it out",
    "late_chunking": "send the chunks as items",
    "truncate_prompt_tokens": "send shorter texts: nothing is cut silently",
    "softmax": "leave it out",
    "pooling": "leave it out",
}
_HARMLESS = (
    "user", "add_special_tokens", "continue_final_message", "add_generation_prompt", "extra_body",
    "metadata", "request_id", "store", "service_tier",
)  # fmt: skip


def read_embeddings(values: dict[str, Any], served: Served, reader: PartReader) -> Ask:
    """A request.

    Raises:
        ApiError: it is refused whole.
    """
    fields = Fields(values)
    model, mode = served.mode(fields.take("model"), fields.take("mode"))
    fields.refuse(_REFUSED)
    check_dimensions(fields, served, "dimensions")
    if fields.take("normalized", "normalize") not in (None, True):
        raise bad_field("normalized", "is not true, and vectors here have unit length")
    if fields.take("truncate") not in (None, False, "NONE", "none"):
        raise bad_field("truncate", "is asked, and nothing is cut here")
    encoding = fields.take("encoding_format", "embedding_type") or "float"
    if encoding not in ("float", "base64"):
        raise bad_field("encoding_format", "is neither float nor base64")
    modality = fields.choice("modality", "text", "image", "video")
    given, messages = fields.take("input"), fields.take("messages")
    if (given is None) == (messages is None):
        raise ApiError(400, "Fix: send either input or messages", "invalid_field", "input")
    param = "input" if messages is None else "messages"
    try:
        items = reader.items(given if messages is None else messages, modality)
    except InvalidItem as error:
        raise public(error, param=param) from None
    ask = Ask(model, items, mode, cast("Encoding", encoding))
    ask.instruction = fields.text("instruction") or None
    read_gen(ask, fields)
    ask.record_errors = fields.choice("on_error", "raise", "record") == "record"
    ask.thinking, ask.stream = fields.flag("thinking"), fields.flag("stream")
    ask.lane = cast("Lane | None", fields.choice("lane", "query", "bulk"))
    ask.deadline = fields.number("timeout", 0.001, 3600)
    fields.ignore(*_HARMLESS)
    ask.ignored = fields.rest()
    if ask.stream and (len(ask.items) != 1 or mode == "disc"):
        raise ApiError(
            400, "stream takes one item, in mode gen or both. Fix: send one, or no stream",
            "invalid_field", "stream",
        )  # fmt: skip
    return ask


def read_gen(ask: Ask, fields: Fields) -> None:
    """What a request says about generating."""
    ask.max_new_tokens = fields.whole("max_new_tokens", "max_tokens", "max_completion_tokens")
    sampling = fields.take("sampling")
    if sampling is None:
        return
    if not isinstance(sampling, dict) or set(sampling) - set(Sampling.__dataclass_fields__):
        known = ", ".join(Sampling.__dataclass_fields__)
        raise bad_field("sampling", f"is not an object with some of {known}")
    try:
        ask.sampling = Sampling(**sampling)
    except UmeError as error:
        raise public(error, param="sampling") from None


def check_dimensions(fields: Fields, served: Served, name: str) -> None:
    """Refuse another length than the native one."""
    asked = fields.whole(name)
    if asked not in (None, served.dimensions):
        raise ApiError(
            400,
            f"{name} is {asked}, and vectors here have {served.dimensions}. "
            f"Fix: leave it out, or send {served.dimensions}",
            "unsupported_dimensions",
            name,
        )


def embeddings_answer(
    ask: Ask, outcomes: list[Embedded | UmeError], fetched: list[bool]
) -> dict[str, Any]:
    """The answer; failed items have no vector and say why."""
    data = [
        failed(error, index, fetched[index])
        if isinstance(error := outcome, UmeError)
        else entry(ask, outcome, index)
        for index, outcome in enumerate(outcomes)
    ]
    good = [o for o in outcomes if not isinstance(o, UmeError)]
    signature = good[0].signature if good else None
    return {
        "object": "list",
        "data": data,
        "model": ask.model,
        "usage": usage(ask, good),
        "signature": None if signature is None else signature.to_dict(),
        "signature_digest": None if signature is None else signature.digest,
    }


def entry(ask: Ask, found: Embedded, index: int) -> dict[str, Any]:
    """One item's vectors and what happened to it."""
    first = found.disc if found.disc is not None else found.gen
    assert first is not None  # an item that did not fail has the vectors of its mode
    out: dict[str, Any] = {
        "object": "embedding",
        "index": index,
        "embedding": encoded(first, ask.encoding),
        "status": found.record.status,
    }
    if ask.mode == "both" and found.gen is not None:
        out["gen_embedding"] = encoded(found.gen, ask.encoding)
    if found.gen_samples is not None and len(found.gen_samples) > 1:
        out["gen_samples"] = [encoded(v, ask.encoding) for v in found.gen_samples]
    if found.record.reason:
        out["reason"] = found.record.reason
    if found.record.warnings:
        out["warnings"] = list(found.record.warnings)
    if ask.thinking and ask.mode != "disc":
        out |= texts(found.record)
    return out


def texts(record: Record) -> dict[str, Any]:
    """What gen wrote."""
    return {
        "thinking": record.thinking,
        "summary": record.summary,
        "samples": [
            {"text": s.text, "status": s.status, "tokens": s.generated_tokens}
            for s in record.samples
        ],
    }


def failed(error: UmeError, index: int, fetched: bool) -> dict[str, Any]:
    """One item that has no vector."""
    said = public(error, fetched=fetched)
    return {
        "object": "embedding", "index": index, "embedding": None, "status": "failed",
        "error": said.body()["error"],
    }  # fmt: skip


def usage(ask: Ask, found: list[Embedded]) -> dict[str, int]:
    """Tokens read and written."""
    prompt = sum(e.record.prompt_tokens for e in found)
    written = sum(e.record.generated_tokens for e in found)
    out = {"prompt_tokens": prompt, "total_tokens": prompt + written}
    return out if ask.mode == "disc" else out | {"completion_tokens": written}


def encoded(vector: Vectors, encoding: Encoding) -> str | list[float]:
    """Numbers, or little-endian float32 in base64."""
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
