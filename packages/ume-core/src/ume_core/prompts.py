"""The exact strings the model was trained with, in one versioned place.

Sources: the published README (arXiv 2511.00405 repository, section "obtaining generative
embeddings") for `readme`; mteb 2.26.24 `models/model_implementations/ume_r1.py` for `mteb`.
A prompt's name is part of every signature: vectors made with different prompts do not mix.
"""

from __future__ import annotations

from dataclasses import dataclass

from ume_core.errors import InvalidOption

DISC_TOKEN = "<disc_emb>"
GEN_TOKEN = "<gen_emb>"
THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"


@dataclass(frozen=True)
class Prompt:
    """One version of the text that follows the content in the user turn.

    Attributes:
        name: the version's name, recorded in signatures.
        generation: the request for thinking and a summary, after `<disc_emb>`.
    """

    name: str
    generation: str

    def around_disc(self, gen: bool) -> tuple[str, str]:
        """What stands before and after `<disc_emb>`; the first joins the user's text."""
        return "\n", "\n" + (self.generation if gen else "")


_LINES = (
    "Represent the above input text, images, videos, or any combination of the three as"
    " embeddings.",
    "First output the thinking process in <think> </think> tags and then summarize the entire"
    " input in a word or sentence.",
    "Finally, use the <gen_emb> tag to represent the entire input.",
)

PROMPTS: dict[str, Prompt] = {
    "readme": Prompt("readme", "\n".join(_LINES)),
    "mteb": Prompt("mteb", " ".join(_LINES)),
}
DEFAULT_PROMPT = "readme"


def get_prompt(name: str) -> Prompt:
    """The prompt called `name`.

    Raises:
        InvalidOption: no prompt has that name.
    """
    try:
        return PROMPTS[name]
    except KeyError:
        known = ", ".join(sorted(PROMPTS))
        raise InvalidOption(
            f"unknown prompt version {name!r}", fix=f"use one of: {known}"
        ) from None


def strip_recipe_suffix(text: str) -> str:
    r"""Remove the recipe's own ending from a user turn written as in the published README.

    The README types `"…\n<disc_emb>\n"`, with or without the generation prompt, into the user's
    text. The engine appends that ending itself, so it is taken off here; any other `<disc_emb>`
    stays in the text as ordinary characters.
    """
    body = text
    for prompt in PROMPTS.values():
        if body.endswith(prompt.generation):
            body = body[: -len(prompt.generation)]
            break
    stem = body.rstrip("\n")
    if stem.endswith(DISC_TOKEN):
        stem = stem[: -len(DISC_TOKEN)]
        return stem[:-1] if stem.endswith("\n") else stem
    return text
