"""GRPO against TRL's own trainer: advantages, loss and gradients of the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ume_train.config.stages import PolicyLoss
from ume_train.grpo.loss import policy_loss
from ume_train.grpo.rewards import advantages

trl: Any = pytest.importorskip(
    "trl", reason="not run: trl 1.16 is not installed, which needs Python 3.11"
)
LENGTH, GROUP = 12, 4


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, nano: Path) -> tuple[Any, Any, list[float]]:
    """TRL's trainer, what it sampled and scored, and the rewards."""
    import datasets
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trl")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(nano)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rewards: list[float] = []

    def reward(completions: list[str], **rest: Any) -> list[float]:
        del rest
        rewards.extend(float(sum(map(ord, c)) % 7) for c in completions)
        return rewards

    prompts = ["a red circle", "a longer text", "a", "what moves?"]

    class Sampler(trl.GRPOTrainer):
        def sampled(self, batch: list[dict[str, str]]) -> Any:
            """What it trains on: answers, advantages, the reference's log-probabilities."""
            return self._generate_and_score_completions(batch)

    trainer = Sampler(
        model=str(folder / "model"), reward_funcs=reward, processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        args=trl.GRPOConfig(
            output_dir=str(folder / "run"), loss_type="dr_grpo", scale_rewards="group", beta=0.04,
            epsilon=0.2, epsilon_high=0.28, use_bias_correction_kl=False, num_iterations=1,
            num_generations=GROUP, per_device_train_batch_size=16, max_completion_length=LENGTH,
            use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
        ),
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():  # away from the reference
        for weight in trainer.model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    batch = [{"prompt": p} for p in prompts for _ in range(GROUP)]
    return trainer, trainer.sampled(batch), rewards


def test_advantages_are_trls(theirs: tuple[Any, Any, list[float]]) -> None:
    _, inputs, rewards = theirs
    groups = torch.arange(4).repeat_interleave(GROUP)
    ours = advantages(torch.tensor(rewards), groups, scale=True)
    assert len(set(rewards)) > 2
    torch.testing.assert_close(inputs["advantages"], ours)


@pytest.mark.parametrize("on_policy", [True, False])
def test_loss_and_gradients_are_trls(theirs: tuple[Any, Any, list[float]], on_policy: bool) -> None:
    trainer, given, _ = theirs
    model, mask = trainer.model, given["completion_mask"].bool()
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], dim=1)
    seen = torch.cat([given["prompt_mask"], given["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, -mask.shape[1] - 1 : -1]
    now = logits.log_softmax(-1).gather(2, given["completion_ids"][..., None])[..., 0]
    old, inputs = now.detach(), dict(given)
    if not on_policy:
        torch.manual_seed(1)
        old = inputs["old_per_token_logps"] = old + 0.3 * torch.randn_like(old)
    worth = given["advantages"].repeat_interleave(mask.sum(1))
    found = policy_loss(
        now[mask], old[mask], given["ref_per_token_logps"][mask], worth, PolicyLoss(beta=0.04),
        LENGTH,
    )  # fmt: skip
    assert bool(found.clipped.any()) is not on_policy and float(found.kl.mean()) > 1e-3
    ours = found.loss / len(mask)
    wanted = trainer.compute_loss(model, inputs)
    torch.testing.assert_close(ours, wanted)
    weights = list(model.parameters())
    for mine, other in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(wanted, weights),
                           strict=True):  # fmt: skip
        torch.testing.assert_close(mine, other)
