"""Rewards, the objective and rollouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ume_core import Item, Text
from ume_qwen.checkpoint import find_checkpoint
from ume_torch.checkpoint import load_model
from ume_train.config.sections import ModelSection
from ume_train.config.stages import PolicyLoss, Rollouts
from ume_train.data.pairs import Example
from ume_train.forward import Policy
from ume_train.grpo.loss import policy_loss
from ume_train.grpo.rewards import advantages, embedding_reward, format_reward
from ume_train.grpo.rollouts import Engine, sequences
from ume_train.rendering import Renderings

GOOD = "<think>It is a dog.</think><answer>a dog<gen_emb>"


@pytest.mark.parametrize(
    ("text", "found", "whole"),
    [
        (GOOD, 1, 1),
        (f"well, {GOOD}", 1, 0),  # upstream finds it anywhere
        ("<think>a</think>b<answer>c<gen_emb>", 1, 0),
        ("<think>a</think><think>b</think><answer>c<gen_emb>", 1, 0),
        ("<think></think><answer>c<gen_emb>", 1, 0),
        ("<think>a</think><answer>c</answer><gen_emb>", 1, 0 + 1),
        ("<think>a</think><answer>c", 0, 0),
        ("<answer>c<gen_emb>", 0, 0),
    ],
)
def test_the_form_of_an_answer(text: str, found: int, whole: int) -> None:
    assert format_reward(text, whole=False) == found
    assert format_reward(text, whole=True) == whole


def _angles(*degrees: float) -> Tensor:
    at = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([at.cos(), at.sin()], dim=1)


def test_the_published_reward_by_hand() -> None:
    # Two pairs, two rollouts a side; both query rollouts are of pair 0.
    own = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    others = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-3.0, 4.0]])
    pairs, columns = torch.tensor([0, 0]), torch.tensor([0, 0, 1, 1])
    yes = torch.ones(2).bool(), torch.ones(4).bool()
    found = embedding_reward(own, others, pairs, columns, usable=yes[0], other_usable=yes[1])
    # first: cosines 1, .6 | 0, -.6: the best two are its own pair's; mean .8 less mean -.3
    # second: cosines 0, .8 | 1, .8: a tie counts against it, so none of the best two is
    expected = torch.tensor([1.0 * (0.8 + 0.3), 0.0])
    torch.testing.assert_close(found, expected)
    soft = embedding_reward(
        own, others, pairs, columns, usable=yes[0], other_usable=yes[1], kind="margin_soft",
        temperature=0.1,
    )  # fmt: skip
    weights = torch.tensor([0.0, -0.6]).div(0.1).softmax(0)
    assert abs(float(soft[0]) - (0.8 - float(weights @ torch.tensor([0.0, -0.6])))) < 1e-6


def test_a_rollout_without_gen_emb_earns_nothing_and_counts_for_nobody() -> None:
    own, others = _angles(0, 5), _angles(0, 60, 90, 120)
    pairs, columns = torch.tensor([0, 0]), torch.tensor([0, 0, 1, 1])
    found = embedding_reward(
        own, others, pairs, columns, usable=torch.tensor([True, False]),
        other_usable=torch.tensor([True, False, True, True]),
    )  # fmt: skip
    torch.testing.assert_close(found, torch.tensor([1.0 * (1 + 0.25), 0.0]))


def test_rewards_do_not_depend_on_the_order_of_rollouts() -> None:
    torch.manual_seed(0)
    own, others = torch.randn(16, 8), torch.randn(16, 8)
    pairs = torch.arange(4).repeat_interleave(4)
    yes = torch.ones(16).bool()
    found = embedding_reward(own, others, pairs, pairs, usable=yes, other_usable=yes)
    a, b = torch.randperm(16), torch.randperm(16)
    again = embedding_reward(own[a], others[b], pairs[a], pairs[b], usable=yes, other_usable=yes)
    torch.testing.assert_close(again, found[a])


def test_advantages_are_within_a_group() -> None:
    rewards, groups = torch.tensor([1.0, 3.0, 10.0, 10.0]), torch.tensor([4, 4, 9, 9])
    root = 2**0.5
    scaled = advantages(rewards, groups, scale=True)
    torch.testing.assert_close(
        scaled, torch.tensor([-1 / (root + 1e-4), 1 / (root + 1e-4), 0.0, 0.0])
    )
    plain = advantages(rewards, groups, scale=False)
    torch.testing.assert_close(plain, torch.tensor([-1.0, 1.0, 0.0, 0.0]))


def test_the_objective_by_hand() -> None:
    now = torch.tensor([0.5, -1.0, 0.0]).log_softmax(0).requires_grad_()
    old, reference = now.detach() + torch.tensor([-0.5, 0.1, 0.4]), now.detach() + 0.2
    worth = torch.tensor([2.0, -1.0, -1.0])
    settings = PolicyLoss(beta=0.1, epsilon_low=0.2, epsilon_high=0.28)
    found = policy_loss(now, old, reference, worth, settings, length=10)
    ratio = torch.tensor([0.5, -0.1, -0.4]).exp()
    gain = torch.stack([ratio[0].clamp(max=1.28) * 2, -ratio[1], -ratio[2].clamp(min=0.8)])
    kl = torch.tensor(0.2).exp() - 0.2 - 1
    torch.testing.assert_close(found.loss, (-gain + 0.1 * kl).sum() / 10)
    assert found.clipped.tolist() == [True, False, True]


def test_on_its_own_samples_the_gradient_is_reinforces() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    tokens, worth = torch.randint(7, (5,)), torch.randn(5)

    def chosen() -> Tensor:
        return logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]

    now = chosen()
    found = policy_loss(now, now.detach(), None, worth, PolicyLoss(), length=1)
    assert not found.clipped.any()
    (ours,) = torch.autograd.grad(found.loss, logits)
    (theirs,) = torch.autograd.grad(-(worth * chosen()).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_a_bandit_learns_its_best_arm() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(4, requires_grad=True)
    payoff = torch.tensor([0.1, 0.2, 0.9, 0.3])
    optimizer = torch.optim.SGD([logits], lr=0.5)
    for _ in range(60):
        arms = torch.multinomial(logits.detach().softmax(0), 16, replacement=True)
        worth = advantages(payoff[arms], torch.zeros(16, dtype=torch.long), scale=True)
        now = logits.log_softmax(0)[arms]
        policy_loss(now, now.detach(), None, worth, PolicyLoss(), length=1).loss.div(16).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(logits.detach().softmax(0)[2]) > 0.95


@pytest.fixture(scope="module")
def live(nano: Path) -> tuple[Policy, Renderings]:
    checkpoint = find_checkpoint(nano)
    render = Renderings(checkpoint, ModelSection(start="nano"), (), 4096)
    model = load_model(checkpoint, "cpu", "float32", "sdpa")
    return Policy(model, render.tokenizer.special.pad, bf16=False, even=False), render


def test_the_engine_follows_the_weights(live: tuple[Policy, Renderings]) -> None:
    policy, render = live
    clip = np.random.default_rng(0).integers(0, 255, (4, 84, 84, 3), dtype=np.uint8)
    from ume_core import Video

    items = [Item((Text("a cat"),)), Item((Video(clip),)), Item((Text("a cat"),))]
    prompts, failed = render.prompts([Example(i) for i in items], skip=False)
    engine = Engine(policy.model, torch.device("cpu"), copy=False)
    settings, special = Rollouts(generations=3, new_tokens=24), render.tokenizer.special

    def gap() -> float:
        made = engine(prompts, settings, {0: 5, 1: 6, 2: 7}, special)
        rows = sequences(prompts, made, failed)
        with torch.no_grad():
            trained = policy(rows).log_probs
        engines = torch.tensor([v for group in made for a in group for v in a.log_probs])
        return float((engines - trained).abs().max())

    assert gap() < 1e-3
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(1.1 if "visual" in name else 1.05)
    assert gap() > 1e-2  # pictures, prefixes and the head are the old weights' still
    engine.sync(policy.model)
    assert gap() < 1e-3


def test_each_prompt_has_its_own_stream(live: tuple[Policy, Renderings]) -> None:
    policy, render = live
    prompts, _ = render.prompts([Example(Item((Text("a cat"),)))] * 3, skip=False)
    engine = Engine(policy.model, torch.device("cpu"), copy=False)
    hot = Rollouts(generations=2, new_tokens=12, temperature=3.0)
    special = render.tokenizer.special
    a, b, c = engine(prompts, hot, {0: 5, 1: 6, 2: 5}, special)
    assert [x.ids for x in a] == [x.ids for x in c] != [x.ids for x in b]
    again = engine(prompts[:2], hot, {0: 6, 1: 5}, special)  # wherever a prompt stands
    assert [x.ids for x in again[0]] == [x.ids for x in b]


def test_an_answer_without_gen_emb_is_known_as_such(live: tuple[Policy, Renderings]) -> None:
    policy, render = live
    prompts, failed = render.prompts([Example(Item((Text("a cat"),)))], skip=False)
    engine = Engine(policy.model, torch.device("cpu"), copy=False)
    made = engine(prompts, Rollouts(generations=2, new_tokens=3), {0: 1}, render.tokenizer.special)
    rows = sequences(prompts, made, failed)
    assert [a.usable for a in made[0]] == [False, False] and rows.gen == [-1, -1]
    assert all(len(a.ids) == 3 == len(a.log_probs) for a in made[0])
    with torch.no_grad():
        assert not policy(rows).gen.any()  # never the prompt's own <gen_emb>
