r"""The exact texts the published model was trained, evaluated and shown with.

Sources, by name:

- `one-line`: every row of the SFT data (zhibinlan/UME-sft-train) and the official evaluation
  (UME-R1 `src/eval/VLM2Vec/src/data/collator/eval_collator.py`, `GENERATION_PROMPT`); mteb 2.26.24
  `models/model_implementations/ume_r1.py` has the same text, hence its alias `mteb`.
- `readme`: the published README and its four demos (`demo/*.py`): three lines, of which the first
  two end in a space.
- `lines`: three lines without those spaces; ume-nano was trained with it.

A prompt's name is part of every signature: vectors made with different requests do not mix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from ume_core.errors import InvalidOption

DISC_TOKEN = "<disc_emb>"
GEN_TOKEN = "<gen_emb>"
THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"
# GLM-4.1V-9B-Thinking annotated the training answers; these are ordinary text to Qwen's tokenizer.
BOX_OPEN, BOX_CLOSE = "<|begin_of_box|>", "<|end_of_box|>"


@dataclass(frozen=True)
class Prompt:
    """One version of the request that follows the content in the user turn.

    Attributes:
        name: the version's name, recorded in signatures.
        generation: the request for thinking and a summary, after `<disc_emb>`.
    """

    name: str
    generation: str

    def around_disc(self, gen: bool) -> tuple[str, str]:
        """The text before `<disc_emb>`, which joins the user's own, and the text after it."""
        return "\n", "\n" + (self.generation if gen else "")


_SENTENCES = (
    "Represent the above input text, images, videos, or any combination of the three as"
    " embeddings.",
    "First output the thinking process in <think> </think> tags and then summarize the entire"
    " input in a word or sentence.",
    "Finally, use the <gen_emb> tag to represent the entire input.",
)

PROMPTS: dict[str, Prompt] = {
    "one-line": Prompt("one-line", " ".join(_SENTENCES)),
    "readme": Prompt("readme", " \n".join(_SENTENCES)),
    "lines": Prompt("lines", "\n".join(_SENTENCES)),
}
PROMPT_ALIASES = {"mteb": "one-line"}


def get_prompt(name: str) -> Prompt:
    """The prompt called `name`, or by an alias of it.

    Raises:
        InvalidOption: no prompt has that name.
    """
    try:
        return PROMPTS[PROMPT_ALIASES.get(name, name)]
    except KeyError:
        known = ", ".join(sorted([*PROMPTS, *PROMPT_ALIASES]))
        raise InvalidOption(
            f"unknown prompt version {name!r}", fix=f"use one of: {known}"
        ) from None


def prompt_of(request: str) -> Prompt:
    """The known prompt with this name or text, or a new one named after the text's digest."""
    for prompt in PROMPTS.values():
        if request in (prompt.name, prompt.generation):
            return prompt
    if request in PROMPT_ALIASES:
        return get_prompt(request)
    digest = blake2b(request.encode(), digest_size=4).hexdigest()
    return Prompt(f"custom-{digest}", request)


def _spaced(text: str) -> str:
    """A pattern for `text` with any white space where it has some."""
    return r"\s+".join(re.escape(word) for word in text.split())


# What a message typed for the published code ends with. Before the token stands a line break
# (README, evaluation), a space and a line break (RL: `open_r1/vlm_modules/qwen_module.py`), or the
# space that is left of either once a text was flattened; all other white space is the user's.
_ENDING = re.compile(
    rf"(?: ?\r?\n| )?{re.escape(DISC_TOKEN)}\s*(?:{_spaced(' '.join(_SENTENCES))}\s*)?\Z"
)
_OPENING = re.compile(_spaced(_SENTENCES[0]))


def strip_request(text: str) -> str:
    r"""A user turn's text without the `"\n<disc_emb>\n…"` that the published code ends it with.

    The request is recognised whatever its white space, with or without the sentences that ask for
    thinking; the engine adds the one of the conventions in force. Other text stays as it is.
    """
    found = _ENDING.search(text)
    return text[: found.start()] if found else text


def request_warning(text: str) -> str | None:
    """What to tell a user whose text holds a part of the request that was not taken off."""
    if DISC_TOKEN in text:
        what = f"the text holds {DISC_TOKEN}"
    elif _OPENING.search(text):
        what = "the text holds the request for a summary"
    else:
        return None
    return (
        f"{what}, which is embedded as ordinary characters; the engine adds the request itself. "
        f"Fix: remove it, or pass chat messages whose user text ends with {DISC_TOKEN} and the "
        "published request"
    )
