"""Spellings of items."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import Image, InvalidItem, Item, Text, Video, as_item, as_items
from ume_core.prompts import PROMPTS, request_warning, strip_request

PIL = PILImage.new("RGB", (8, 8))


def kinds(item: Item) -> list[str]:
    return [type(p).__name__ for p in item.parts]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("photo.png", ["Text"]),  # a string is never guessed to be a path
        ("https://example.org/a.png", ["Text"]),
        (Path("photo.PNG"), ["Image"]),
        (Path("clip.mp4"), ["Video"]),
        (PIL, ["Image"]),
        (np.zeros((8, 8, 3), np.uint8), ["Image"]),
        (np.zeros((4, 8, 8, 3), np.uint8), ["Video"]),
        ({"text": "a", "image": PIL}, ["Text", "Image"]),
        ({"images": [PIL, PIL], "text": "both"}, ["Image", "Image", "Text"]),
        ({"video": [PIL, PIL], "fps": 1.0}, ["Video"]),
        ({"type": "image_url", "image_url": {"url": "data:,x"}}, ["Image"]),
        (["which?", PIL, Path("b.jpg"), Text("!")], ["Text", "Image", "Image", "Text"]),
        ({"role": "user", "content": "hello"}, ["Text"]),
    ],
    ids=lambda value: re.sub(" at 0x[0-9A-F]+", "", str(value)),
)
def test_a_spelling_becomes_parts_in_order(value: Any, expected: list[str]) -> None:
    assert kinds(as_item(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        3, None, "", "  \n", [], {}, {"text": ""}, {"txt": "a"}, {"text": 3}, b"bytes",
        Path("notes.xyz"),
        [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
        [{"role": "user", "content": None}],
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_item_is_refused_with_a_fix(value: Any) -> None:
    with pytest.raises(InvalidItem) as caught:
        as_item(value)
    assert caught.value.fix


def test_the_published_readmes_messages_are_understood() -> None:
    content = [
        {"type": "video", "video": "file:///v.mp4", "max_pixels": 360 * 420, "fps": 1.0},
        {"type": "image", "image": "https://x/y.jpg", "min_pixels": 100},
        {"type": "text", "text": "What is it?\n<disc_emb>\n" + PROMPTS["readme"].generation},
    ]
    item = as_item([{"role": "user", "content": content}])
    video, image, text = item.parts
    assert isinstance(video, Video) and video.fps == 1.0 and video.max_pixels == 360 * 420
    assert isinstance(image, Image) and image.min_pixels == 100
    assert text == Text("What is it?")


# As typed in upstream's own files, white space and all.
ENDINGS = {
    "README, demos": "\n<disc_emb>\nRepresent the above input text, images, videos, or any "
    "combination of the three as embeddings. \nFirst output the thinking process in "
    "<think> </think> tags and then summarize the entire input in a word or sentence. "
    "\nFinally, use the <gen_emb> tag to represent the entire input.",
    "README, disc": "\n<disc_emb>\n",
    "evaluation, SFT": "\n<disc_emb>\nRepresent the above input text, images, videos, or any "
    "combination of the three as embeddings. First output the thinking process in "
    "<think> </think> tags and then summarize the entire input in a word or sentence. "
    "Finally, use the <gen_emb> tag to represent the entire input.",
}
ENDINGS["RL"] = " " + ENDINGS["evaluation, SFT"]
ENDINGS["flattened"] = " " + " ".join(ENDINGS["README, demos"].split())
ENDINGS["Windows"] = ENDINGS["README, demos"].replace("\n", "\r\n")
ENDINGS["ends in white space"] = ENDINGS["README, demos"] + "  \n"


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("body", ["What?", "", "about <disc_emb> itself", "ends in newline\n"])
def test_a_pasted_request_is_taken_off_whatever_its_white_space(body: str, ending: str) -> None:
    assert strip_request(body + ending) == body
    picture = {"type": "image", "image": "x.png"}
    content = [picture, {"type": "text", "text": body + ending}]
    assert as_item([{"role": "user", "content": content}]).text == body


def test_a_request_is_taken_off_the_last_text_also_where_a_picture_follows() -> None:
    picture = {"type": "image", "image": "x.png"}
    text = {"type": "text", "text": "What?" + ENDINGS["README, demos"]}
    for content in ([picture, text], [text, picture]):
        assert as_item([{"role": "user", "content": content}]).text == "What?"
    bare = {"type": "text", "text": ENDINGS["README, demos"]}
    assert len(as_item([{"role": "user", "content": [picture, bare]}]).parts) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a\n<disc_emb>\nAnother request.",
        "<disc_emb> first",
        "Represent the above\ninput text, images, videos, or any  combination of the three as "
        "embeddings. And then?",
    ],
)
def test_a_request_that_is_not_recognised_stays_and_is_warned_about(text: str) -> None:
    assert strip_request(text) == text
    warning = request_warning(text)
    assert warning is not None and "ordinary characters" in warning and "Fix: " in warning
    assert request_warning("a dog") is None


def test_a_bad_member_of_a_list_is_named_by_its_index() -> None:
    with pytest.raises(InvalidItem, match=r"^item 2: .*Fix: "):
        as_items(["a", "b", {}])


def test_one_conversation_is_not_a_list_of_items() -> None:
    with pytest.raises(InvalidItem, match=r"embed\(\[messages\]\)"):
        as_items([{"role": "user", "content": "x"}])
