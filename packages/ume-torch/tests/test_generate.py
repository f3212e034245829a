"""Every way a generated answer can end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ume_core.embedder import Sampling
from ume_torch.engine import split_answer
from ume_torch.forward import Batch
from ume_torch.generate import generate
from ume_torch.tokens import SpecialTokens

GEN, END, PAD = 7, 8, 9
SPECIAL = SpecialTokens(disc=6, gen=GEN, image=10, video=11, end=END, pad=PAD)


class Script:
    """A model whose row `r` says `script[r]`, and whose state is (token fed, tokens seen)."""

    def __init__(self, script: list[list[int]]) -> None:
        self.script = script
        self.steps: list[int] = []
        self.model = SimpleNamespace(language_model=self._forward)
        self._said = [0] * len(script)

    def get_input_embeddings(self) -> Any:
        return lambda ids: torch.nn.functional.one_hot(ids, 16).float()

    def lm_head(self, state: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(state), 16)
        for place, row in enumerate(state[:, 0].long().tolist()):
            logits[place, self.script[row][self._said[row]]] = 1
            self._said[row] += 1
        return logits

    def _forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor,
                 past_key_values: Cache, **_: Any) -> Any:  # fmt: skip
        self.steps.append(len(inputs_embeds))
        fed = inputs_embeds[:, 0].argmax(-1).float()
        rows = past_key_values.rows.float()
        seen = attention_mask.sum(1).float()
        return SimpleNamespace(last_hidden_state=torch.stack([rows, fed, seen], -1)[:, None])


class Cache:
    def __init__(self, rows: int) -> None:
        self.rows = torch.arange(rows)

    def batch_select_indices(self, index: torch.Tensor) -> None:
        self.rows = self.rows[index]

    def batch_repeat_interleave(self, count: int) -> None:
        self.rows = torch.arange(len(self.rows) * count)


def run(script: list[list[int]], budget: int) -> tuple[Script, list[Any]]:
    rows = len(script)
    states = torch.zeros(rows, 4, 3)
    states[:, 3, 0] = torch.arange(rows)
    batch = Batch(
        embeds=torch.zeros(rows, 4, 16), positions=torch.zeros(3, rows, 4),
        mask=torch.ones(rows, 4), lengths=torch.full((rows,), 4), 
        next_position=torch.full((rows,), 4),
        disc_index=torch.zeros(rows),
    )  # fmt: skip
    model = Script(script)
    out = generate(model, batch, states, Cache(rows), SPECIAL, budget=budget, sampling=None)
    return model, [g for (g,) in out]


@pytest.mark.parametrize(
    ("script", "ids", "tokens", "forced"),
    [
        ([1, 2, GEN, 3, GEN], [1, 2, GEN], 3, None),  # the first of several ends the row
        ([1, 2, 3, GEN], [1, 2, 3, GEN], 4, None),  # the last token the budget allows
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, GEN], 4, "no <gen_emb> within 4 tokens"),
        ([1, END], [1, GEN], 1, "the model ended its answer without <gen_emb>"),
        ([PAD], [GEN], 0, "the model ended its answer without <gen_emb>"),
        ([GEN], [GEN], 1, None),
    ],
)
def test_an_answer_ends(script: list[int], ids: list[int], tokens: int, forced: str | None) -> None:
    _, (found,) = run([script], budget=4)
    assert (found.ids, found.generated_tokens, found.forced) == (ids, tokens, forced)
    # The state is that of <gen_emb> itself, with prompt and answer before it.
    assert found.state.tolist() == [0, GEN, 4 + len(ids)]


def test_finished_rows_leave_the_batch_and_keep_their_own_state() -> None:
    model, found = run([[1, 2, 3, GEN], [GEN], [1, GEN], [1, 2, 3, 4, 5]], budget=4)
    assert [f.state.tolist() for f in found] == [
        [0, GEN, 8], [1, GEN, 5], [2, GEN, 6], [3, GEN, 9],
    ]  # fmt: skip
    assert model.steps == [4, 3, 2, 2, 1]


def test_the_answer_is_split_as_published() -> None:
    assert split_answer("<think>a b</think><answer>c<gen_emb>") == ("a b", "c")
    assert split_answer("<think>a</think>\n<answer>c</answer>\n<gen_emb>") == ("a", "c")
    assert split_answer("<think>never closed<gen_emb>") == ("never closed", "")
    assert split_answer("no form at all<gen_emb>") == ("", "")


def test_sampling_options_are_checked() -> None:
    for wrong in ({"n": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="Fix"):
            Sampling(**wrong)  # type: ignore[arg-type]


def test_sampling_draws_what_the_probabilities_say() -> None:
    from ume_torch.generate import _Sampler

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    rows = list(range(4000))
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.75}, [0.625, 0.375, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
    ]
    for options, expected in cases:
        sampler = _Sampler(Sampling(n=256, **options), 256)
        sampler.generators = [torch.Generator().manual_seed(r) for r in rows]
        counts = torch.bincount(torch.tensor(sampler(logits, rows)), minlength=4) / 4000
        assert (counts - torch.tensor(expected)).abs().max() < 0.03
