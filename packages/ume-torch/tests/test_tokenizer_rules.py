"""Token ids against AutoProcessor on the same directory; what its lines read apart is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image as PILImage

from ume_core import Image, Item, LoadOptions, Text
from ume_core.errors import CheckpointError
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.tokens import Tokenizer

from .conftest import Make, copy, edit

TOK, SET = "tokenizer.json", "tokenizer_config.json"
TEXTS = (
    "A dog's café, 12 345 (犬) e\u0301 \u00a0 end ", "  two  spaces\n\n\tand\r\nlines",
    "👩‍👩‍👧 naïve ZWJ",
)  # fmt: skip


def change(directory: Path, edited: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / TOK
    values = json.loads(path.read_text("utf-8"))
    edited(values)
    path.write_text(json.dumps(values), "utf-8")


def check_ids(directory: Path) -> None:
    """A whole prompt with a picture, as the processor tokenizes the rendered text."""
    processor: Any = transformers.AutoProcessor.from_pretrained(directory)
    prepare = Preparer(find_checkpoint(directory), LoadOptions(conventions="readme"))
    picture = PILImage.fromarray(np.zeros((56, 84, 3), dtype=np.uint8))
    for text in TEXTS:
        ours = prepare(Item((Image(picture), Text(text))), gen=False)
        content = [
            {"type": "image", "image": "x"},
            {"type": "text", "text": f"{text}\n<disc_emb>\n"},
        ]
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        wanted = processor(text=[rendered], images=[picture], padding=True)["input_ids"][0]
        assert ours.ids.tolist() == list(wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_bos_token": True, "bos_token": "<|im_start|>", "add_eos_token": True},
        {"model_max_length": 4, "max_length": 4, "padding": True, "padding_side": "right"},
        {"tokenizer_class": "Qwen2TokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": None, "add_prefix_space": None, "split_special_tokens": False},
        {"clean_up_tokenization_spaces": True, "errors": "strict"},
    ],
    ids=str,
)
def test_settings_without_a_part_in_the_ids_have_none(
    mini: Make, tmp_path: Path, settings: dict[str, Any]
) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / SET, **settings)
    check_ids(directory)
    assert find_checkpoint(directory).digest() == find_checkpoint(mini()).digest()


def test_no_tokenizer_config_is_needed(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c", SET)
    check_ids(directory)
    assert find_checkpoint(directory).digest() == find_checkpoint(mini()).digest()


def test_another_spelling_of_tokenizer_json_changes_nothing(mini: Make, tmp_path: Path) -> None:
    def respell(values: dict[str, Any]) -> None:
        merges = values["model"]["merges"]
        values["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in merges]
        values["truncation"] = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst",
                                "stride": 0}  # fmt: skip
        values["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False,
                                    "trim_offsets": False, "use_regex": False}  # fmt: skip
        del values["model"]["ignore_merges"]

    directory = copy(mini(), tmp_path / "c")
    change(directory, respell)
    check_ids(directory)
    assert find_checkpoint(directory).digest() == find_checkpoint(mini()).digest()


def test_added_tokens_out_of_order_keep_their_ids_or_are_refused(
    mini: Make, tmp_path: Path
) -> None:
    directory = copy(mini(), tmp_path / "c")
    change(directory, lambda v: v["added_tokens"].reverse())
    try:
        Tokenizer(directory)
    except CheckpointError as error:
        assert "added_tokens by their ids" in str(error)
    else:
        check_ids(directory)


@pytest.mark.parametrize("name", ["vocab", "merges", "added"])
def test_another_vocabulary_is_another_digest(mini: Make, tmp_path: Path, name: str) -> None:
    def other(values: dict[str, Any]) -> None:
        if name == "vocab":
            vocab = values["model"]["vocab"]
            first, second = list(vocab)[-2:]
            vocab[first], vocab[second] = vocab[second], vocab[first]
        elif name == "merges":
            values["model"]["merges"].pop()
        else:
            values["added_tokens"].pop()

    directory = copy(mini(), tmp_path / "c", SET)
    change(directory, other)
    assert find_checkpoint(directory).digest() != find_checkpoint(mini()).digest()


@pytest.mark.parametrize(
    ("key", "value"),
    [("truncation", True), ("add_prefix_space", True), ("split_special_tokens", True),
     ("tokenizer_class", "LlamaTokenizer"), ("fast_tokenizer_files", ["tokenizer.4.json"]),
     ("tokenizer_file", "/etc/passwd"), ("image_token", "<|video_pad|>"), ("unk_token", "<unk>"),
     ("additional_special_tokens", ["<new>"]), ("extra_special_tokens", {"x": "<new>"}),
     ("audio_token", "<audio>")],
)  # fmt: skip
def test_settings_that_would_change_ids_are_refused(
    mini: Make, tmp_path: Path, key: str, value: Any
) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / SET, **{key: value})
    with pytest.raises(CheckpointError, match=key):
        Tokenizer(directory)


POST = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["x"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "value"),
    [("normalizer", {"type": "Lowercase"}), ("normalizer", None), ("post_processor", POST),
     ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                        "use_regex": True}), ("decoder", None)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_pipeline_that_is_not_qwen2s_is_refused(
    mini: Make, tmp_path: Path, part: str, value: Any, kind: str
) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / SET, tokenizer_class=kind)
    change(directory, lambda v: v.update({part: value}))
    with pytest.raises(CheckpointError, match=f"its {part} is not Qwen2's"):
        Tokenizer(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dropout", 0.1), ("ignore_merges", True), ("byte_fallback", True), ("unk_token", "a"),
     ("end_of_word_suffix", "</w>"), ("type", "WordPiece")],
)  # fmt: skip
def test_a_model_that_is_not_qwen2s_is_refused(
    mini: Make, tmp_path: Path, key: str, value: Any
) -> None:
    directory = copy(mini(), tmp_path / "c")
    change(directory, lambda v: v["model"].update({key: value}))
    with pytest.raises(CheckpointError, match=key):
        Tokenizer(directory)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("place", [TOK, SET])
def test_a_token_that_swallows_its_surroundings_is_refused(
    mini: Make, tmp_path: Path, flag: str, place: str
) -> None:
    directory = copy(mini(), tmp_path / "c")
    if place == TOK:
        change(directory, lambda v: v["added_tokens"][2].update({flag: True}))
    else:
        decoder = json.loads((directory / SET).read_text())["added_tokens_decoder"]
        decoder["6132"][flag] = True
        edit(directory / SET, added_tokens_decoder=decoder)
    with pytest.raises(CheckpointError, match=rf"{place}.*<\|im_end\|>.*{flag}"):
        Tokenizer(directory)


def test_files_that_disagree_about_added_tokens_are_refused(mini: Make, tmp_path: Path) -> None:
    decoder = json.loads((mini() / SET).read_text())["added_tokens_decoder"]
    less = {i: t for i, t in decoder.items() if t["content"] != "<think>"}
    more = decoder | {"6200": decoder["6140"] | {"content": "<more>"}}
    moved = less | {"6200": decoder["6140"]}
    for number, (other, token) in enumerate(
        [(less, "<think>"), (more, "<more>"), (moved, "<think>")]
    ):
        directory = copy(mini(), tmp_path / str(number))
        edit(directory / SET, added_tokens_decoder=other)
        with pytest.raises(CheckpointError, match=token):
            Tokenizer(directory)
    legacy = copy(mini(), tmp_path / "legacy", SET)
    (legacy / "added_tokens.json").write_text(json.dumps({"<think>": 7}))
    with pytest.raises(CheckpointError, match=r"added_tokens\.json gives '<think>' the id 7"):
        Tokenizer(legacy)


@pytest.mark.parametrize("key", ["image_token_id", "video_token_id", "vision_start_token_id"])
def test_ids_of_the_configuration_are_the_tokenizers(mini: Make, tmp_path: Path, key: str) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / "config.json", **{key: 5})
    with pytest.raises(CheckpointError, match=f"{key} 5"):
        Preparer(find_checkpoint(directory), LoadOptions())


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(mini: Make, tmp_path: Path) -> None:
    directory = copy(mini(), tmp_path / "c")
    edit(directory / "config.json", vocab_size=6143)
    with pytest.raises(CheckpointError, match="ids up to 6143"):
        Preparer(find_checkpoint(directory), LoadOptions())


def test_named_tokens_are_those_of_the_tokenizer(mini: Make, tmp_path: Path) -> None:
    forms: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((), {}),
        (("eos_token", "unk_token"), {}),
        ((), {"bos_token": "<|im_start|>", "pad_token": None}),
        ((), {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False,
                            "rstrip": False, "normalized": False, "single_word": False}}),
    ]  # fmt: skip
    for number, (drop, new) in enumerate(forms):
        directory = copy(mini(), tmp_path / str(number))
        edit(directory / SET, *drop, **new)
        theirs = transformers.AutoTokenizer.from_pretrained(directory).special_tokens_map
        named = {k: v for k, v in theirs.items() if isinstance(v, str)}
        assert Tokenizer(directory).named == named
    legacy = copy(mini(), tmp_path / "legacy", SET)
    (legacy / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    assert Tokenizer(legacy).named["eos_token"] == "<|im_end|>"


def test_a_digest_covers_the_tokens_that_the_template_names(mini: Make, tmp_path: Path) -> None:
    digests = set()
    for number, name in enumerate(("eos_token", "unused")):
        for token in ("<|im_end|>", "<|endoftext|>"):
            directory = copy(mini(), tmp_path / f"{number}{token.strip('<|>')}")
            template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
            edit(directory / "chat_template.json", chat_template=f"{{{{ {name} }}}}{template}")
            edit(directory / SET, eos_token=token)
            digests.add(find_checkpoint(directory).digest())
    assert len(digests) == 3
