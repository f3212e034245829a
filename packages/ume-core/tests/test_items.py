"""Spellings of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core import Image, InvalidItem, Item, Text, Video, as_item, as_items
from ume_core.prompts import PROMPTS, strip_recipe_suffix

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
    ids=str,
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


@pytest.mark.parametrize("prompt", [*(p.generation for p in PROMPTS.values()), ""])
@pytest.mark.parametrize("body", ["What?", "", "about <disc_emb> itself", "ends in newline\n"])
def test_only_the_recipes_own_ending_is_taken_off(body: str, prompt: str) -> None:
    assert strip_recipe_suffix(f"{body}\n<disc_emb>\n{prompt}") == body
    assert strip_recipe_suffix(body) == body


def test_a_bad_member_of_a_list_is_named_by_its_index() -> None:
    with pytest.raises(InvalidItem, match=r"^item 2: .*Fix: "):
        as_items(["a", "b", {}])


def test_one_conversation_is_not_a_list_of_items() -> None:
    with pytest.raises(InvalidItem, match=r"embed\(\[messages\]\)"):
        as_items([{"role": "user", "content": "x"}])
