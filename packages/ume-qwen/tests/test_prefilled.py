"""Every way an answer can end, on engines that keep no states, or that of the last token fed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import ume_nano
from ume_core import CheckpointError, LimitExceeded, LoadOptions, Sampling, UmeError
from ume_core.items import as_item
from ume_core.session import open_session
from ume_core.testing.contract import mixed_items
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prefilled.decoding import Ticket
from ume_qwen.prefilled.embedder import PrefilledEmbedder, find_whole
from ume_qwen.prefilled.protocol import Answered, Generate, Generated, Need, Prefill, answer
from ume_qwen.render import RenderedPrompt
from ume_qwen.thinking import StopRules
from ume_qwen.tokens import SpecialTokens

GEN, END, PAD = 100, 101, 102
SPECIAL = SpecialTokens(disc=99, gen=GEN, image=98, video=97, end=END, pad=PAD)


class Fed:
    """Tokens come until one stops them or the budget ends, that one included; states are of tokens
    that were fed, so only a prompt's last one can be asked for."""

    def __init__(self, *parts: Sequence[int]) -> None:
        self._parts = [list(part) for part in parts]
        self.needs: list[Need] = []

    def __call__(self, need: Need) -> Any:
        self.needs.append(need)
        if isinstance(need, Prefill):
            return np.array(need.ids, dtype=np.float32)
        return Generated(tuple(self.written(need, self._parts.pop(0), (GEN, END, PAD))))

    def written(self, need: Generate, script: list[int], stops: tuple[int, ...]) -> list[int]:
        found: list[int] = []
        for token in script[: need.budget]:
            found.append(token)
            if token in stops:
                break
        return found


class FedWithStates(Fed):
    """The same, writing on behind `<gen_emb>`, and one token more than the budget; with the state
    of the last token that was fed."""

    def __call__(self, need: Need) -> Any:
        if isinstance(need, Prefill):
            return super().__call__(need)
        self.needs.append(need)
        more = Generate(need.ids, need.budget + 1)
        ids = self.written(more, self._parts.pop(0), (END, PAD))
        return Generated(tuple(ids), np.array([*need.ids, *ids[:-1]], dtype=np.float32))


def run(engine: Callable[[Need], Any], rules: StopRules, beginning: Sequence[int] = ()) -> Answered:
    steps = answer(rules, beginning)
    need = next(steps)
    while True:
        try:
            need = steps.send(engine(need))
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize(
    ("tokens", "ids", "forced"),
    [
        ([1, 2, GEN], [1, 2, GEN], None),
        ([GEN], [GEN], None),
        ([1, GEN, 2, GEN], [1, GEN], None),  # the first of several counts
        ([1, 2, 3, 4, GEN], [1, 2, 3, 4, GEN], None),  # the last one allowed
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, GEN], "no <gen_emb> within 5 tokens"),
        ([1, 2, END], [1, 2, GEN], "the model ended its answer without <gen_emb>"),
        ([PAD], [GEN], "the model ended its answer without <gen_emb>"),
        ([1, END, GEN], [1, GEN], "the model ended its answer without <gen_emb>"),
    ],
    ids=str,
)
def test_an_answer_ends_once_and_its_state_is_that_of_its_own_token(
    tokens: list[int], ids: list[int], forced: str | None
) -> None:
    engine = Fed(tokens)
    found = run(engine, StopRules(SPECIAL, 5))
    assert (list(found.ids), found.forced, found.given) == (ids, forced, 0)
    assert engine.needs == [Generate((), 5), Prefill(tuple(ids))]
    assert found.state.tolist() == ids  # of prompt and answer, fed up to <gen_emb>


@pytest.mark.parametrize(
    ("tokens", "ids", "forced", "once"),
    [
        ([1, 2, GEN, END], [1, 2, GEN], None, True),
        ([GEN, PAD], [GEN], None, True),
        ([1, 2, 3, 4, GEN, END], [1, 2, 3, 4, GEN], None, True),  # the last one allowed
        ([1, 2, 3, 4, GEN, 6, 7], [1, 2, 3, 4, GEN], None, True),  # whatever follows it
        ([1, GEN, 2, END], [1, GEN], None, False),  # text after it
        ([1, GEN, GEN, END], [1, GEN], None, False),  # several: the first counts
        ([1, GEN, 2, GEN, END], [1, GEN], None, False),
        ([1, 2, 3, 4, 5, GEN], [1, 2, 3, 4, 5, GEN], "no <gen_emb> within 5 tokens", False),
        ([1, 2, END], [1, 2, GEN], "the model ended its answer without <gen_emb>", False),
        ([END], [GEN], "the model ended its answer without <gen_emb>", False),
        ([1, END], [1, GEN], "the model ended its answer without <gen_emb>", False),
    ],
    ids=str,
)
def test_a_state_that_came_along_is_taken_where_it_is_gen_embs_own(
    tokens: list[int], ids: list[int], forced: str | None, once: bool
) -> None:
    engine = FedWithStates(tokens)
    found = run(engine, StopRules(SPECIAL, 5))
    assert (list(found.ids), found.forced, found.given) == (ids, forced, 0)
    assert engine.needs == [Generate((), 5), Prefill(tuple(ids))][: 1 if once else 2]
    assert found.state.tolist() == ids


def test_an_engine_that_does_not_stop_where_it_should_changes_nothing() -> None:
    def eager(need: Need) -> Any:
        return Generated((1, GEN, 2, 3)) if isinstance(need, Generate) else np.array(need.ids)

    assert run(eager, StopRules(SPECIAL, 5)).ids == (1, GEN)


def test_an_answer_that_is_given_whole_generates_nothing() -> None:
    engine = Fed()
    found = run(engine, StopRules(SPECIAL, 5), [GEN])
    assert (found.ids, found.given, found.forced) == ((GEN,), 1, None)
    assert engine.needs == [Prefill((GEN,))]


def test_a_given_beginning_is_fed_and_not_counted() -> None:
    engine = Fed([1, 2, 3])
    found = run(engine, StopRules(SPECIAL, 2), [7, 8])
    assert engine.needs[0] == Generate((7, 8), 2)
    assert (found.ids, found.given) == ((7, 8, 1, 2, GEN), 2)
    assert found.forced == "no <gen_emb> within 2 tokens"


def bounded(done: bool = False, budget: int = 6) -> StopRules:
    return StopRules(SPECIAL, budget, 2, (50, 51), lambda ids: done)


@pytest.mark.parametrize(
    ("rules", "parts", "ids", "given", "needs"),
    [
        # Still thinking after two tokens: the third is taken back, the thinking's end is fed.
        (bounded(), ([1, 2, 3], [4, GEN]), [1, 2, 50, 51, 4, GEN], 2,
         [Generate((), 3), Generate((1, 2, 50, 51), 4, 1)]),
        # The thinking had ended by itself: the third stays.
        (bounded(True), ([1, 2, 3], [4, GEN]), [1, 2, 3, 4, GEN], 0,
         [Generate((), 3), Generate((1, 2, 3), 3, 1)]),
        (bounded(), ([1, GEN],), [1, GEN], 0, [Generate((), 3)]),
        (bounded(), ([1, 2, GEN],), [1, 2, GEN], 0, [Generate((), 3)]),
        (bounded(), ([1, 2, END],), [1, 2, GEN], 0, [Generate((), 3)]),
        # A bound that the whole answer's budget comes before.
        (bounded(budget=2), ([1, 2],), [1, 2, GEN], 0, [Generate((), 2)]),
        (bounded(budget=3), ([1, 2, 3], [4]), [1, 2, 50, 51, 4, GEN], 2,
         [Generate((), 3), Generate((1, 2, 50, 51), 1, 1)]),
    ],
)  # fmt: skip
def test_the_thinkings_budget(
    rules: StopRules, parts: Any, ids: list[int], given: int, needs: list[Generate]
) -> None:
    for engine in (Fed(*parts), FedWithStates(*([*part, 77] for part in parts))):
        found = run(engine, rules)
        assert (list(found.ids), found.given) == (ids, given)
        assert [n for n in engine.needs if isinstance(n, Generate)] == needs
        assert found.state.tolist() == ids


def test_an_answer_cut_off_for_no_reason_is_an_error() -> None:
    with pytest.raises(UmeError, match=r"after 2 of 5 tokens.*Fix: "):
        run(Fed([1, 2]), StopRules(SPECIAL, 5))


class Scripted:
    """A backend with `Fed`'s semantics, a token a step; the answers are scripted.

    A request's tokens depend on its prompt and seed alone; a state is a function of what was fed.
    """

    def __init__(self, script: Callable[[int], list[int]], special: SpecialTokens) -> None:
        self._script, self._special = script, special
        self._open: dict[Ticket, tuple[Need, list[int], list[int]]] = {}
        self.seeds: list[int] = []

    def submit(
        self,
        prompt: RenderedPrompt,
        need: Need,
        sampling: Sampling | None,  # noqa: ARG002
        seed: int,
        live: bool,  # noqa: ARG002
    ) -> Ticket:
        ticket = Ticket()
        fed = [*prompt.ids.tolist(), *need.ids]
        ahead: list[int] = []
        if isinstance(need, Generate):
            self.seeds.append(seed)
            ahead = self._script(seed)[: need.budget]
        self._open[ticket] = need, fed, ahead
        return ticket

    def advance(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            need, fed, ahead = self._open[ticket]
            if isinstance(need, Prefill):
                ticket.state = np.random.default_rng(fed).standard_normal(192, dtype=np.float32)
                ticket.done = True
            else:
                ticket.ids = [*ticket.ids, ahead[len(ticket.ids)]]
                stops = (self._special.gen, self._special.end, self._special.pad)
                ticket.done = ticket.ids[-1] in stops or len(ticket.ids) == len(ahead)
            if ticket.done:
                del self._open[ticket]

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._open.pop(ticket, None)

    @property
    def open(self) -> int:
        return len(self._open)


TEXT = "<think>A dog.</think><answer>dog"


class Plain(PrefilledEmbedder):
    """ume-nano on a scripted backend."""

    name = "plain"

    def __init__(self, script: Callable[[int], list[int]] | None = None, **options: Any) -> None:
        checkpoint, loaded = find_checkpoint(ume_nano.path()), LoadOptions(**options)
        super().__init__(checkpoint, loaded, dtype="float32", weights="scripted")
        tokenizer = self.prepare.tokenizer
        usual = [*tokenizer.encode_trusted(TEXT), tokenizer.special.gen]
        self.backend: Any = Scripted(script or (lambda seed: usual), tokenizer.special)
        self.rows = 64


def test_the_engine_needs_no_state_of_a_token_that_was_not_fed() -> None:
    engine = Plain()
    result = engine.embed(mixed_items(), mode="both", max_new_tokens=64)
    assert {r.samples[0].text for r in result.records} == {TEXT + "<gen_emb>"}
    assert {(r.status, r.thinking, r.summary) for r in result.records} == {("ok", "A dog.", "dog")}
    for index, item in enumerate(mixed_items()):
        prompt = engine.prepare(as_item(item), gen=True)
        answer = [
            *engine.prepare.tokenizer.encode_trusted(TEXT),
            engine.prepare.tokenizer.special.gen,
        ]
        for mode, fed in (
            ("disc", prompt.ids[: prompt.disc_index + 1]), ("gen", [*prompt.ids, *answer])
        ):  # fmt: skip
            state = np.random.default_rng(list(fed)).standard_normal(192, dtype=np.float32)
            expected = state / np.linalg.norm(state)
            np.testing.assert_allclose(result.vectors(mode)[index], expected, atol=1e-6)


def test_samples_draw_from_seeds_of_their_own_wherever_the_item_stands() -> None:
    engine = Plain()
    sampling = Sampling(n=3, seed=5)
    engine.embed(["a", "b"], mode="gen", sampling=sampling)
    assert engine.backend.seeds == [5_000_015, 5_000_016, 5_000_017] * 2


@pytest.mark.parametrize("thinking", ["full", "short", "none"])
def test_the_texts_told_are_together_the_answer(thinking: str) -> None:
    engine = Plain(thinking=thinking, thinking_tokens=3)
    told: list[str] = []
    with open_session(engine) as session:
        future = session.submit(
            "a", mode="gen", max_new_tokens=64, on_token=lambda sample, text: told.append(text)
        )
        text = future.result().record.samples[0].text
    assert "".join(told) == text and len(told) > 2


def test_what_is_no_longer_wanted_is_cancelled() -> None:
    ends = iter((0, 40, 40))
    engine = Plain(lambda seed: [65] * next(ends) + [engine.prepare.tokenizer.special.gen])
    prompts = [engine.prepare(as_item(text), gen=True) for text in ("a", "b", "c")]
    run = engine.outputs(iter(enumerate(prompts)), "gen", 64, None)
    assert next(run)[0] == 0 and engine.backend.open > 0
    run.close()
    assert engine.backend.open == 0


def test_a_refused_item_fails_alone() -> None:
    engine = Plain()
    submit = engine.backend.submit

    def refusing(prompt: Any, need: Need, sampling: Any, seed: int, live: bool) -> Ticket:
        if len(prompt.ids) > 300:
            return Ticket(done=True, error=LimitExceeded("too long", fix="shorten it"))
        return submit(prompt, need, sampling, seed, live)

    engine.backend.submit = refusing
    for mode in ("disc", "gen", "both"):
        result = engine.embed(["a", "dog " * 400, "b"], mode=mode, on_error="record")
        assert [r.status for r in result.records] == ["ok", "failed", "ok"]
        assert engine.backend.open == 0
        with pytest.raises(LimitExceeded, match="item 1: too long"):
            engine.embed(["a", "dog " * 400, "b"], mode=mode)
        assert engine.backend.open == 0


def test_an_adapter_is_refused_with_the_fix(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": str(ume_nano.path())}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": np.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"the plain engine loads whole models.*merge"):
        find_whole(tmp_path, LoadOptions(), "plain")
