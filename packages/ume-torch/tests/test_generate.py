"""Every way a generated answer can end, and rows that join and leave."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_qwen.thinking import StopRules
from ume_qwen.tokens import SpecialTokens
from ume_torch.generate import DecodeBatch, Row, Sampler, choose
from ume_torch.kv import KeyValues, Shape, compacted
from ume_torch.steps import Plain

GEN, END, PAD = 7, 8, 9
SPECIAL = SpecialTokens(disc=6, gen=GEN, image=10, video=11, end=END, pad=PAD)
CPU = torch.device("cpu")


class Script:
    """A decoder whose row `r` says `script[r]`; its state is (prompt, token fed, tokens seen)."""

    def __init__(self, script: Sequence[Sequence[int]], rules: StopRules) -> None:
        self.script = script
        self.steps: list[int] = []
        self.cache = KeyValues(Shape(1, 1, 1, torch.float32, CPU))
        self.running = DecodeBatch(Plain(self._step), self._head, self.cache, self._pick)
        self.rules = rules

    def join(self, prompts: Sequence[int], given: Sequence[int] = ()) -> None:
        prompt_tokens = 4
        rows = [
            Row(p, 0, prompt_tokens, torch.zeros(3), self.rules, forced_ids=list(given))
            for p in prompts
        ]
        own = [torch.full((prompt_tokens, 1, 1), float(p)) for p in prompts]
        self.running.add(rows, [[(t, t)] for t in own])

    def _head(self, states: Tensor) -> Tensor:
        return torch.zeros(len(states), 30)

    def _pick(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        assert len(logits) == len(rows)
        return [self.script[r.prompt][len(r.ids) - r.given] for r in rows]

    def _step(self, feed: Tensor, cache: KeyValues, width: int) -> Tensor:
        ids, positions, seen = feed
        self.steps.append(len(ids))
        assert (positions + 1 == seen).all() and width == seen.max()
        # What the cache holds of a row is its own prompt's, wherever rows moved.
        keys, _ = cache.layer(0)
        return torch.stack([keys[: len(ids), 0, 0, 0], ids.float(), seen.float()], -1)

    def run(self) -> dict[int, Row]:
        done: dict[int, Row] = {}
        while len(self.running):
            done |= {r.prompt: r for r in self.running.advance()}
        return done


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
    model = Script([script], StopRules(SPECIAL, 4))
    model.join([0])
    found = model.run()[0]
    assert (found.ids, found.generated_tokens, found.forced) == (ids, tokens, forced)
    # The state is that of <gen_emb> itself, with prompt and answer before it.
    assert found.state.tolist() == [0, GEN, 4 + len(ids)]


def test_finished_rows_leave_and_others_join_while_the_rest_goes_on() -> None:
    script = [[1, 2, 3, GEN], [GEN], [1, GEN], [1, 2, 3, 4, 5], [2, GEN]]
    model = Script(script, StopRules(SPECIAL, 4))
    model.join([0, 1, 2, 3])
    first = model.running.advance()
    assert [r.prompt for r in first] == [1]
    model.join([4])
    done = {1: first[0]} | model.run()
    assert {p: done[p].state.tolist() for p in sorted(done)} == {
        0: [0, GEN, 8], 1: [1, GEN, 5], 2: [2, GEN, 6], 3: [3, GEN, 9], 4: [4, GEN, 6],
    }  # fmt: skip
    assert model.steps == [4, 4, 3, 2, 1]


def test_rows_thrown_out_leave_nothing_behind() -> None:
    model = Script([[1, 2, GEN]] * 3, StopRules(SPECIAL, 9))
    model.join([0, 1, 2])
    model.running.advance()
    assert [r.prompt for r in model.running.abandon()] == [0, 1, 2]
    assert model.cache.nbytes == 0 and len(model.running) == 0
    model.join([1])
    assert model.run()[1].state.tolist() == [1, GEN, 7]


def test_a_given_beginning_is_fed_and_not_counted() -> None:
    model = Script([[3, GEN]], StopRules(SPECIAL, 2))
    model.join([0], given=[11, 12])
    row = model.run()[0]
    assert (row.ids, row.generated_tokens, row.forced) == ([11, 12, 3, GEN], 2, None)


def test_thinking_is_closed_at_its_budget_unless_it_closed_itself() -> None:
    close = (20, 21)
    rules = StopRules(
        SPECIAL, 9, thinking_budget=2, think_end_ids=close, thinking_done=lambda ids: 20 in ids
    )
    model = Script([[1, 2, 3, 4, GEN], [20, 5, 6, GEN], [1, GEN]], rules)
    model.join([0, 1, 2])
    done = model.run()
    # The token chosen at the border gives way to the close; the model goes on from there.
    assert done[0].ids == [1, 2, 20, 21, 3, 4, GEN]
    assert done[1].ids == [20, 5, 6, GEN]
    assert done[2].ids == [1, GEN]


def test_memory_follows_the_tokens() -> None:
    cache = KeyValues(Shape(2, 1, 8, torch.float32, CPU))
    prompt = torch.ones(10, 1, 8)
    cache.add([[(prompt, prompt)] * 2])
    sizes: list[int] = []
    for _ in range(256):
        cache.extend()
        sizes.append(cache.nbytes)
    per_token = 2 * 2 * 8 * 4
    assert sizes[-1] - sizes[0] == 256 * per_token
    assert all(s <= per_token * (10 + i + 1 + 64) for i, s in enumerate(sizes))
    assert cache.bytes_for(1, 10 + 256) == sizes[-1]


def test_rows_that_stay_keep_their_own_keys_and_few_of_them_move() -> None:
    for kept in itertools.chain.from_iterable(
        itertools.combinations(range(6), n) for n in range(7)
    ):
        cache = KeyValues(Shape(2, 1, 3, torch.float32, CPU))
        filled = [torch.full((row + 1, 1, 3), float(row)) for row in range(6)]
        cache.add([[(one, one)] * 2 for one in filled])
        order = compacted(kept)
        cache.keep(order)
        assert sorted(order) == list(kept) and cache.lengths == [row + 1 for row in order]
        for place, row in enumerate(order):
            for part in (*cache.layer(0), *cache.layer(1)):
                assert (part[place, :, : row + 1] == row).all()
        moved = sum(place != row for place, row in enumerate(order))
        assert moved == sum(row >= len(kept) for row in kept)


def test_sampling_options_are_checked() -> None:
    for wrong in ({"n": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="Fix"):
            Sampling(**wrong)  # type: ignore[arg-type]


def test_sampling_draws_what_the_probabilities_say() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    rules = StopRules(SPECIAL, 9)
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.75}, [0.625, 0.375, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
    ]
    for options, expected in cases:
        rows = [Row(0, sample, 0, torch.zeros(1), rules) for sample in range(4000)]
        sampler = Sampler(Sampling(n=256, **options))
        counts = torch.bincount(torch.tensor(sampler(logits, rows)), minlength=4) / 4000
        assert (counts - torch.tensor(expected)).abs().max() < 0.03


def test_rows_of_one_batch_choose_each_by_its_own_sampling() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    ways = [None, Sampling(seed=1), Sampling(seed=2), None, Sampling(seed=1), Sampling(top_k=1)]
    rules = StopRules(SPECIAL, 9)

    def rows() -> list[Row]:
        return [Row(n, 0, 0, torch.zeros(1), rules, way) for n, way in enumerate(ways)]

    together = choose(logits, rows())
    assert together == [choose(logits[[n]], [row])[0] for n, row in enumerate(rows())]
    best = logits.argmax(-1).tolist()
    assert [together[n] for n in (0, 3, 5)] == [best[n] for n in (0, 3, 5)]


def test_rows_of_a_prompt_nobody_wants_leave_and_the_others_go_on() -> None:
    model = Script([[1, 2, GEN], [1, 2, 3, GEN], [2, GEN]], StopRules(SPECIAL, 9))
    model.join([0, 1, 2])
    model.running.advance()
    model.running.remove(0)
    model.running.remove(0)  # which is not there any more
    done = model.run()
    assert {p: row.state.tolist() for p, row in done.items()} == {1: [1, GEN, 8], 2: [2, GEN, 6]}
    assert model.steps == [3, 2, 1, 1]
