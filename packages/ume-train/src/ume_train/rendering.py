"""From pairs to what the model computes: prompt and answer as one sequence, CPU work."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ume_core.conventions import conventions_in_force
from ume_core.errors import InvalidItem, LimitExceeded, UmeError
from ume_core.items import Item, Text
from ume_core.limits import Policy
from ume_core.options import LoadOptions
from ume_qwen.checkpoint import Checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_train.config.sections import ModelSection
from ume_train.data.pairs import Answer, Example


@dataclass(frozen=True)
class Sequences:
    """Rows of one forward pass.

    Attributes:
        prompts: prompt and answer of every row, as one sequence.
        disc: index of `<disc_emb>` of each.
        gen: index of `<gen_emb>`, -1 where there is none.
        learned: index of each row's first token that is learned (its length without an answer).
        keys: digest of each item, equal for equal items.
        failed: why a row is not what it should be; such a row takes no part in any loss.
    """

    prompts: list[RenderedPrompt]
    disc: list[int]
    gen: list[int]
    learned: list[int]
    keys: list[int]
    failed: list[str | None]

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Sequence[int]) -> Sequences:
        """Some of the rows."""
        return Sequences(
            [self.prompts[r] for r in rows], [self.disc[r] for r in rows],
            [self.gen[r] for r in rows], [self.learned[r] for r in rows],
            [self.keys[r] for r in rows], [self.failed[r] for r in rows],
        )  # fmt: skip


class Renderings:
    """Turns examples into sequences for one checkpoint, as inference renders them."""

    def __init__(
        self, checkpoint: Checkpoint, model: ModelSection, roots: tuple[Path, ...], max_tokens: int
    ) -> None:
        # Training data name files by path; nothing is fetched, and nothing outside is read.
        policy = Policy(files=bool(roots), roots=roots or None, urls=False)
        options = LoadOptions(
            prompt=model.prompt, text_only=model.text_only, media_order=model.media_order,
            frame_lists=model.frame_lists, min_pixels=model.min_pixels,
            max_pixels=model.max_pixels, policy=policy,
        )  # fmt: skip
        own = conventions_in_force(options, checkpoint.conventions).text_only
        self._preparers = {
            blank: Preparer(checkpoint, replace(options, text_only=policy_name))
            for blank, policy_name in ((True, "blank"), (False, "plain"), (None, own))
        }
        self.prepare = self._preparers[None]
        self.tokenizer = self.prepare.tokenizer
        self.conventions = self.prepare.conventions
        self.max_tokens = max_tokens
        self._newline = self.tokenizer.encode("\n")

    def __call__(
        self,
        examples: Sequence[Example],
        *,
        answers: bool,
        asked: bool = True,
        blank: bool | None = None,
        skip: bool = False,
    ) -> Sequences:
        """Lay out examples.

        Args:
            answers: append each one's answer; else sequences end at `<disc_emb>`.
            asked: put the request before the answer.
            blank: override the conventions' `text_only`.
            skip: mark an example that cannot be read as failed, in place of raising.

        Raises:
            UmeError: an example cannot be read, with its place.
        """
        found = Sequences([], [], [], [], [], [])
        for example in examples:
            failed = None
            try:
                prompt, learned = self._one(example, answers, asked, blank)
            except UmeError as error:
                failed = f"{example.place}: {error.cause}"
                if not skip:
                    raise InvalidItem(failed, fix=error.fix) from error
                stand_in = Example(Item((Text("-"),)), Answer("-", "-"))
                prompt, learned = self._one(stand_in, answers, asked, False)
            found.prompts.append(prompt)
            found.disc.append(prompt.disc_index)
            # Before <|im_end|> and the line break.
            found.gen.append(len(prompt.ids) - 2 - len(self._newline) if answers else -1)
            found.learned.append(learned)
            found.keys.append(item_key(prompt))
            found.failed.append(failed)
        return found

    def prompts(
        self, examples: Sequence[Example], *, skip: bool
    ) -> tuple[list[RenderedPrompt], list[str | None]]:
        """Prompts that ask for an answer, and why one is a stand-in that takes no part.

        Raises:
            UmeError: as of a call.
        """
        found: list[RenderedPrompt] = []
        failures: list[str | None] = []
        for example in examples:
            failed = None
            try:
                prompt = self.prepare(example.item, gen=True)
            except UmeError as error:
                failed = f"{example.place}: {error.cause}"
                if not skip:
                    raise InvalidItem(failed, fix=error.fix) from error
                prompt = self._preparers[False](Item((Text("-"),)), gen=True)
            found.append(prompt)
            failures.append(failed)
        return found, failures

    def _one(
        self, example: Example, answers: bool, asked: bool, blank: bool | None
    ) -> tuple[RenderedPrompt, int]:
        prompt = self._preparers[blank](example.item, gen=answers and asked)
        if not answers:  # nothing after <disc_emb> reaches its state
            prompt = prompt.until(prompt.disc_index + 1)
            return prompt, len(prompt.ids)
        if example.answer is None:
            raise InvalidItem("it has no answer to learn", fix="give one, or train disc alone")
        joined, learned = self._with_answer(prompt, example.answer)
        if len(joined.ids) > self.max_tokens:
            raise LimitExceeded(
                f"prompt and answer have {len(joined.ids):,} tokens, more than data.max_tokens "
                f"({self.max_tokens:,})",
                fix="raise it, or leave such rows out with --set data.bad_media=skip",
            )
        return joined, learned

    def _with_answer(self, prompt: RenderedPrompt, answer: Answer) -> tuple[RenderedPrompt, int]:
        """Prompt and answer as one sequence, and the index of the first token to learn."""
        special = self.tokenizer.special
        # <|im_end|> and a line break follow and are learned too, as published.
        ids = [*self.tokenizer.encode_trusted(answer.text), special.end, *self._newline]
        start = len(prompt.ids)
        if answer.learn == "summary":
            # Where the token sequences part: a tokenizer may join characters across the border.
            lead = self.tokenizer.encode_trusted(answer.lead)
            same = (a == b for a, b in zip(lead, ids, strict=False))
            start += sum(1 for _ in itertools.takewhile(bool, same))
        return appended(prompt, ids), start


def appended(prompt: RenderedPrompt, ids: Sequence[int]) -> RenderedPrompt:
    """A prompt followed by tokens of an answer."""
    following = int(prompt.positions.max()) + 1
    run = np.arange(following, following + len(ids))
    return replace(
        prompt,
        ids=np.concatenate([prompt.ids, np.array(ids, dtype=np.int64)]),
        positions=np.concatenate([prompt.positions, np.broadcast_to(run, (3, len(run)))], axis=1),
    )


def item_key(prompt: RenderedPrompt) -> int:
    """63 bits that are equal for equal items: of the tokens up to `<disc_emb>`, and the media."""
    key = blake2b(prompt.ids[: prompt.disc_index].tobytes(), digest_size=8)
    for media in prompt.media:
        key.update(media.digest)
    return int.from_bytes(key.digest(), "big") >> 1
