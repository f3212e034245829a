"""The parts of an answer, in every form the published model gives it, and cut anywhere."""

from __future__ import annotations

import pytest

from ume_qwen.answers import Answer, split_answer

THINKING = "The picture shows a dog.\nIt is brown & white, 3 < 4."
SENTENCE = "A brown and white dog sits on grass."
# As the rows of UME-sft-train: no </answer>, the short form between box marks.
PUBLISHED = (
    f"<think>{THINKING}</think><answer>{SENTENCE}\n<|begin_of_box|>dog<|end_of_box|>\n<gen_emb>"
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (PUBLISHED, Answer(THINKING, SENTENCE, "dog")),
        ("<think>a b</think><answer>c<gen_emb>", Answer("a b", "c", "")),
        ("<think>a</think> \n <answer> c </answer><gen_emb>", Answer("a", "c", "")),
        ("<think>a</think><answer><|begin_of_box|>c<|end_of_box|><gen_emb>", Answer("a", "c", "c")),
        ("<think>a</think><answer>b <|begin_of_box|>c<|end_of_box|>. d</answer><gen_emb>",
         Answer("a", "b\n. d", "c")),
        ("<think>a</think><answer>b<|begin_of_box|>c<gen_emb>", Answer("a", "b", "c")),
        ("<think></think><answer>only a summary<gen_emb>", Answer("", "only a summary", "")),
        ("<think>a</think>no tag<gen_emb>", Answer("a", "no tag", "")),
        ("<think>a <answer>b<gen_emb>", Answer("a", "b", "")),
        ("no tags at all<gen_emb>", Answer("", "no tags at all", "")),
        ("<gen_emb>", Answer("", "", "")),
    ],
)  # fmt: skip
def test_every_form_of_an_answer_is_split_without_its_marks(text: str, parts: Answer) -> None:
    assert split_answer(text) == parts


def test_an_answer_cut_anywhere_keeps_its_words_and_shows_no_mark() -> None:
    for length in range(len(PUBLISHED)):
        cut = PUBLISHED[:length]
        found = split_answer(cut)
        shown = "".join(found)
        marks = ("<think", "</think", "<answer", "<|begin", "_box", "<|end", "<gen")
        assert not any(mark in shown for mark in marks), (cut, found)
        assert THINKING.startswith(found.thinking)
        assert SENTENCE.startswith(found.summary) or found.summary == found.short
        # Nothing of the words is lost.
        words = cut.partition("<think>")[2]
        for mark in ("</think>", "<answer>", "<|begin_of_box|>", "<|end_of_box|>", "<gen_emb>"):
            words = words.replace(mark, "")
        # A mark that was cut off takes at most its own characters with it.
        lost = len("".join(words.split())) - len("".join("".join(dict.fromkeys(found)).split()))
        assert lost < len("<|begin_of_box|>"), (cut, found)
