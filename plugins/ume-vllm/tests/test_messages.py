"""Conversations, against what transformers' own processor makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ume_nano
from ume_core import Image, InvalidItem, Item, LoadOptions, Text, Video
from ume_core.testing.contract import picture
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_vllm.messages import Conversation, conversation

ITEMS = {
    "a text": Item((Text("a red apple"),)),
    "a picture": Item((Image(picture(1, 60, 90)),)),
    "both, and an instruction": Item((Image(picture(2, 84, 28)), Text("x?")), "Find it."),
    "two pictures": Item((Image(picture(3)), Image(picture(4, 140, 84)), Text("beside\n it "))),
}


@pytest.fixture(scope="module")
def prepare() -> Preparer:
    return Preparer(find_checkpoint(ume_nano.path()), LoadOptions())


def talk(prepare: Preparer, prompt: RenderedPrompt, more: list[int]) -> Conversation:
    return conversation(prompt, more, prepare.tokenizer, prepare.patchify)


def read(asked: Conversation) -> tuple[list[int], Any]:
    """Ids and pixels as transformers reads a request."""
    import io
    from base64 import b64decode

    from PIL import Image as PILImage
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(
        ume_nano.path(), min_pixels=784, max_pixels=12845056, use_fast=False
    )
    pictures: list[Any] = []
    for message in asked.messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                data = b64decode(part["image_url"]["url"].partition(",")[2])
                pictures.append(PILImage.open(io.BytesIO(data)))
    request = asked.request()
    text = processor.apply_chat_template(
        request["messages"], tokenize=False,
        add_generation_prompt=request["add_generation_prompt"],
        continue_final_message=request["continue_final_message"],
    )  # fmt: skip
    found = processor(text=[text], images=pictures or None, return_tensors="np")
    return found["input_ids"][0].tolist(), found.get("pixel_values")


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("gen", [False, True])
def test_transformers_reads_our_ids_and_pixels(prepare: Preparer, name: str, gen: bool) -> None:
    prompt = prepare(ITEMS[name], gen=gen)
    more: list[int] = []
    if gen:
        more = prepare.tokenizer.encode_trusted("<think>It is.</think><answer>that<gen_emb>")
    else:
        prompt = prompt.until(prompt.disc_index + 1)
    asked = talk(prepare, prompt, more)
    ids, pixels = read(asked)
    assert asked.read_alike and ids == [*prompt.ids.tolist(), *more]
    np.testing.assert_allclose(pixels, np.concatenate([v.patches for v in prompt.media]), atol=1e-6)


def test_an_answer_that_begins_is_asked_for(prepare: Preparer) -> None:
    prompt = prepare(ITEMS["a text"], gen=True)
    asked = talk(prepare, prompt, [])
    assert asked.request()["add_generation_prompt"]
    assert read(asked)[0] == prompt.ids.tolist()


def test_tokens_of_equal_text_are_told_apart(prepare: Preparer) -> None:
    prompt = prepare(ITEMS["a text"], gen=True)
    letters = [i for letter in "apple" for i in prepare.tokenizer.encode(letter)]
    assert letters != prepare.tokenizer.encode("apple")
    assert not talk(prepare, prompt, letters).read_alike


def test_spelled_special_tokens_are_told(prepare: Preparer) -> None:
    prompt = prepare(Item((Text("what is <|image_pad|>?"),)), gen=False)
    assert not talk(prepare, prompt, []).read_alike


def test_videos_are_refused(prepare: Preparer) -> None:
    prompt = prepare(Item((Video([picture(n) for n in range(2)]),)), gen=False)
    with pytest.raises(InvalidItem, match="JPEG"):
        talk(prepare, prompt, [])
