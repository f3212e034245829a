"""What the OpenAPI document shows."""

from __future__ import annotations

from typing import Any

DESCRIPTION = (
    "Embeddings of texts, pictures, videos and any mix of them. The mode is part of the model's "
    "name: `ume-nano` (disc), `ume-nano:gen` (the model thinks first), `ume-nano:both`."
)
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ"
    "/pLvAAAAAElFTkSuQmCC"
)
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
ERROR: dict[str, Any] = {
    "description": "What is wrong, and the fix",
    "content": {"application/json": {"schema": _ERROR}},
}
_EVENT: dict[str, Any] = {  # as FastAPI describes one
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAM: dict[str, Any] = {
    "description": "The vectors; with `stream`, events `token`, then `embedding`, then `[DONE]`",
    "content": {"text/event-stream": {"itemSchema": _EVENT}},
}
_PART: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "image_url", "video_url", "image_base64", "video_base64"]},
        "text": {"type": "string"},
        "image": {"type": "string"},
        "video": {"type": "string"},
        "image_url": {"type": ["string", "object"]},
        "video_url": {"type": ["string", "object"]},
        "instruction": {"type": "string"},
        "content": {"type": ["array", "string"]},
        "role": {"enum": ["system", "user", "assistant"]},
    },
}
_MODE: dict[str, Any] = {"enum": ["disc", "gen", "both"]}

EMBEDDINGS: dict[str, Any] = {
    "schema": {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "input": {
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"oneOf": [{"type": "string"}, _PART]}},
                    _PART,
                ]
            },
            "messages": {"type": "array", "items": _PART},
            "mode": _MODE,
            "encoding_format": {"enum": ["float", "base64", None]},
            "dimensions": {"type": ["integer", "null"]},
            "instruction": {"type": ["string", "null"]},
            "max_new_tokens": {"type": ["integer", "null"], "minimum": 1},
            "sampling": {"type": ["object", "null"]},
            "on_error": {"enum": ["raise", "record"]},
            "thinking": {"type": "boolean"},
            "stream": {"type": "boolean"},
            "lane": {"enum": ["query", "bulk"]},
            "timeout": {"type": ["number", "null"]},
            "user": {"type": "string"},
        },
    },
    "examples": {
        "texts": {"value": {"model": "ume-nano", "input": ["a dog", "public transport"]}},
        "mixed": {
            "value": {
                "model": "ume-nano",
                "input": [{"image": _PIXEL}, {"content": [{"image": _PIXEL}, {"text": "in red"}]}],
                "instruction": "Find a picture like this:",
            }
        },
        "conversation": {
            "value": {
                "model": "ume-nano:gen",
                "messages": [
                    {"role": "system", "content": "Find a picture like this:"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": _PIXEL}},
                            {"type": "text", "text": "in red"},
                        ],
                    },
                ],
                "thinking": True,
                "max_new_tokens": 64,
            }
        },
    },
}
COHERE: dict[str, Any] = {
    "schema": {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "texts": {"type": "array", "items": {"type": "string"}},
            "images": {"type": "array", "items": {"type": "string"}},
            "inputs": {"type": "array", "items": _PART},
            "input_type": {"type": "string"},
            "embedding_types": {"type": "array", "items": {"enum": ["float", "base64"]}},
            "output_dimension": {"type": ["integer", "null"]},
        },
    },
    "examples": {"texts": {"value": {"model": "ume-nano", "texts": ["a dog"]}}},
}
VOYAGE: dict[str, Any] = {
    "schema": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "model": {"type": "string"},
            "inputs": {"type": "array", "items": _PART},
            "input_type": {"type": ["string", "null"]},
            "output_encoding": {"enum": ["base64", None]},
        },
    },
    "examples": {
        "mixed": {
            "value": {
                "model": "ume-nano",
                "inputs": [
                    {"content": [
                        {"type": "text", "text": "a dog"},
                        {"type": "image_base64", "image_base64": _PIXEL},
                    ]}
                ],
            }
        }
    },
}  # fmt: skip


def named(body: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A request's description with the names that its model may have."""
    schema = body["schema"]
    properties = schema["properties"] | {"model": {"type": "string", "enum": names}}
    return body | {"schema": schema | {"properties": properties}}
