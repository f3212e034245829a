"""Requests nobody would send, for tests: shapes near the accepted ones, and damaged media."""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from typing import Any

import httpx
from hypothesis import strategies as st
from PIL import Image as PILImage

from tools.fuzz.seeds import clips, pictures

UNSAFE = re.compile(
    r"0x[0-9a-fA-F]{4,}|(?<![\w:/.])/(?:usr|home|root|tmp|srv|work|proc|etc)/|"
    r"\b(?:PIL|av|torch|numpy|ume_\w+)\.[a-z]\w*|Traceback"
)
_KEYS = (
    "text image video image_url video_url image_base64 video_base64 content role type instruction "
    "input_text input_image nframes fps min_pixels resized_height detail url"
).split()
_FIELDS = (
    "model input messages mode encoding_format dimensions instruction max_new_tokens sampling "
    "on_error thinking stream lane timeout user task modality normalized truncate texts images "
    "inputs input_type embedding_types output_dimension chat_template"
).split()


@st.composite
def damaged_media(draw: st.DrawFn) -> str:
    """A data URL of a small picture with some bytes changed or cut."""
    out = io.BytesIO()
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]))
    PILImage.new("RGB", size, draw(st.integers(0, 2**24 - 1))).save(out, kind)
    data = bytearray(out.getvalue())
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)
    ):
        data[place] = value
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    shown = draw(st.sampled_from(["image/png", "video/mp4", "", "text/html;charset=x"]))
    return f"data:{shown};base64,{base64.b64encode(bytes(data)).decode()}"


@lru_cache(maxsize=1)
def _seeds() -> list[bytes]:
    """Sound clips of common kinds, and pictures of rare ones."""
    wanted = clips("h264.mp4", "hevc.mp4", "vp9.webm", "mpeg4.avi", "mjpeg.mov", "mpeg2.ts")
    return [data for _, data in wanted] + [
        data for name, data in pictures() if name in ("tiff", "avif")
    ]


@st.composite
def damaged_rarities(draw: st.DrawFn) -> str:
    """A data URL of a clip, TIFF or AVIF with some bytes changed or cut."""
    data = bytearray(draw(st.sampled_from(_seeds())))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=8)):
        data[place] = draw(st.integers(0, 255))
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    return f"data:;base64,{base64.b64encode(bytes(data)).decode()}"


def values() -> st.SearchStrategy[Any]:
    """JSON near what items look like."""
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(), st.text(max_size=30),
        damaged_media(),
        st.sampled_from([
            "", "a dog", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x", "user",
            "<|image_pad|>", "data:,", "data:image/png;base64,", "\ud800", "\0", "system", "gen",
        ]),
    )  # fmt: skip
    keys = st.one_of(st.sampled_from(_KEYS), st.text(max_size=5))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=8,
    )


def items() -> st.SearchStrategy[Any]:
    """What is accepted, but for the media's bytes."""
    text = st.text(min_size=1, max_size=20).filter(str.strip)
    part = st.one_of(
        st.builds(lambda t: {"type": "text", "text": t}, text),
        st.builds(lambda u: {"type": "image_url", "image_url": {"url": u}}, damaged_media()),
        st.builds(lambda u: {"image": u}, damaged_media()),
        st.builds(lambda u: {"image": u}, damaged_rarities()),
        st.builds(
            lambda u, n: {"video": u, "nframes": n}, damaged_rarities(), st.sampled_from([2, 4])
        ),
    )
    content = st.one_of(text, st.lists(part, min_size=1, max_size=3))
    turn = st.builds(lambda c: [{"role": "user", "content": c}], content)
    return st.one_of(text, st.lists(st.one_of(text, part, turn), min_size=1, max_size=4), turn)


def bodies() -> st.SearchStrategy[dict[str, Any]]:
    """Requests, with a cheap budget of gen."""
    some = st.dictionaries(st.sampled_from(_FIELDS), values(), max_size=4)
    sound = st.fixed_dictionaries(
        {},
        optional={
            "messages": values(), "texts": values(), "inputs": values(),
            "mode": st.sampled_from(["disc", "gen", "both", None, "x"]),
            "on_error": st.sampled_from(["record", "raise", None, 3]),
            "encoding_format": st.sampled_from(["float", "base64", None, "x"]),
            "stream": st.booleans(),
        },
    )  # fmt: skip
    near = st.builds(lambda a, b: {**a, **b, "max_new_tokens": 2}, some, sound)
    right = st.fixed_dictionaries(
        {"input": items(), "max_new_tokens": st.just(2)},
        optional={
            "mode": st.sampled_from(["disc", "gen", "both", None]),
            "on_error": st.sampled_from(["record", "raise", None]),
            "thinking": st.booleans(), "instruction": st.text(max_size=10),
        },
    )  # fmt: skip
    inputs = st.builds(lambda v: {"input": v, "max_new_tokens": 2}, values())
    return st.one_of(near, right, inputs)


def judge(answer: httpx.Response, sent: str = "") -> None:
    """Refuse an answer that no request may get.

    Args:
        answer: the answer.
        sent: the request's body, whose own words may come back.

    Raises:
        AssertionError: a fault of the server, a text that tells too much, or no error's shape.
    """
    text = answer.text
    assert answer.status_code < 500, (answer.status_code, text[:500])
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        told = error["message"]
        for quoted in re.findall(r"'([^']+)'", told):
            told = told.replace(quoted, "") if quoted in sent else told
        assert not UNSAFE.search(told), told
