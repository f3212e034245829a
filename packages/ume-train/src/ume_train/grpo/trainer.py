"""Group relative policy optimisation.

A step samples `rollouts.generations` answers of each query and target of `batch.pairs_per_reward`
pairs with the inference engine, rewards each by the form of its text and by what its vector finds
among all rollouts of the other side, and moves the policy towards answers better than their
group's mean. Vectors, log-probabilities and the reference's all come from `Policy`, the one
training pass.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from ume_core.errors import InvalidOption
from ume_train.config.stages import GRPOConfig
from ume_train.data.pairs import PairSource
from ume_train.evaluation import Pair
from ume_train.forward import Policy
from ume_train.gather import gather, processes, rank, summed
from ume_train.grpo.loss import policy_loss
from ume_train.grpo.rewards import advantages, embedding_reward, format_reward
from ume_train.grpo.rollouts import Engine, Rollout, sequences
from ume_train.logs import Log, Row, read_log
from ume_train.rendering import Sequences
from ume_train.run import Run

_SAMPLES_EVERY = 10  # steps between samples of thinking


@dataclass(frozen=True)
class Rollouts:
    """What one process sampled for a group of pairs: all query rollouts, then all targets'.

    Attributes:
        rows: prompts with answers.
        old, reference: log-probabilities of the learned tokens when they were sampled and by the
            reference model, by chunk; None where not needed.
        advantages: (rows,).
        texts: of the answers.
        row: what to log.
    """

    rows: Sequences
    old: list[Tensor] | None
    reference: list[Tensor] | None
    advantages: Tensor
    rewards: Tensor
    texts: list[str]
    row: Row


class GRPO(Run):
    """Trains on a `PairSource`, whose answers are not looked at.

    Args:
        config: what to do.
        out: the run's directory; a run that is there goes on.
        source: the pairs, as a function of the batch.
        steps: optimizer steps.
        roots: directories that media may be read from, where not those of `config`'s files.
        held_out: pairs on which `config.evaluate` measures retrieval.
    """

    stage = "grpo"
    config: GRPOConfig

    def __init__(
        self,
        config: GRPOConfig,
        out: Path,
        source: PairSource,
        steps: int,
        roots: tuple[Path, ...] | None = None,
        held_out: Sequence[Pair] = (),
    ) -> None:
        self._roots = roots
        super().__init__(config, out, steps, held_out)
        if config.batch.pairs_per_reward % processes():
            raise InvalidOption(
                f"batch.pairs_per_reward ({config.batch.pairs_per_reward}) cannot be shared by "
                f"{processes()} processes",
                fix="change one of them",
            )
        self.source = source
        self._kept: list[Rollouts] = []
        self._length: float | None = None  # of the run's first answers

    def roots(self) -> tuple[Path, ...]:
        """See `Run.roots`."""
        return super().roots() if self._roots is None else self._roots

    def before_sharding(self) -> None:
        """The engine, and the reference where the adapter cannot simply be left out."""
        model, device = self.trained.model, self.accelerator.device
        spread = self.accelerator.distributed_type in (DistributedType.FSDP,
                                                       DistributedType.DEEPSPEED)  # fmt: skip
        self.engine = Engine(model, device, copy=spread or self.bf16)
        self._reference: Policy | None = None
        if self.config.loss.beta and self.trained.wrapper is None:
            frozen = deepcopy(model).eval().requires_grad_(False)
            pad = self.render.tokenizer.special.pad
            self._reference = Policy(frozen, pad, bf16=self.bf16, even=False).to(device)

    @property
    def may_stop(self) -> bool:
        """Rollouts are not kept: the next step must sample anew."""
        return self.step % self.config.loss.iterations == 0

    @property
    def aligns(self) -> bool:
        """As what it started from: what is rewarded is gen alone."""
        return False

    def advance(self) -> Row:
        """See `Run.advance`."""
        iterations, count = self.config.loss.iterations, self.config.batch.accumulate
        if self.step % iterations == 0:
            self.engine.sync(self.accelerator.unwrap_model(self.policy).model)
            first = self.step // iterations * count
            self._kept = [self._sample(first + n, n) for n in range(count)]
        parts = [self._update(group, n == count - 1, n) for n, group in enumerate(self._kept)]
        row: Row = {}
        for part in parts:
            for name, value in part.items():
                row[name] = row.get(name, 0.0) + value / count
        return row

    def _sample(self, number: int, place: int) -> Rollouts:
        """Rollouts of one batch of pairs, rewarded."""
        config = self.config
        batch = self.source.batch(number)
        count, generations = len(batch.queries), config.rollouts.generations
        share = count // processes()
        own = range(rank() * share, rank() * share + share)
        examples = [batch.queries[i] for i in own] + [batch.positives[i] for i in own]
        skip = config.data.bad_media == "skip"
        prompts, failed = self.render.prompts(examples, skip=skip)
        self._note(failed)
        # A pair with a side that cannot be read takes no part.
        failed = [a or b for a, b in zip(failed, failed[share:] + failed[:share], strict=True)]
        special = self.render.tokenizer.special
        seeds = {
            n: self._seed(number, side * count + pair)
            for n, (side, pair) in enumerate((s, p) for s in (0, 1) for p in own)
        }
        made = self.engine(prompts, config.rollouts, seeds, special)
        rows = sequences(prompts, made, failed)
        answers = [answer for group in made for answer in group]
        texts = [self.render.tokenizer.decode(a.ids) for a in answers]
        chunks = self._chunks(len(rows))
        with torch.no_grad():
            passes = []
            for index, chunk in enumerate(chunks):
                self.seed_pass(place, index)
                passes.append(self.policy(rows.select(chunk)))
        vectors = torch.cat([p.gen for p in passes])
        pair = torch.tensor([p for _ in (0, 1) for p in own], device=self.device)
        pair = pair.repeat_interleave(generations)
        usable = torch.tensor(
            [a.usable and f is None for a, f in zip(answers, rows.failed, strict=True)],
            device=self.device,
        )
        embedding = self._embedding_rewards(vectors, pair, usable)
        form = torch.tensor(
            [format_reward(t, whole=config.reward.whole_form) for t in texts], device=self.device
        )
        rewards = config.reward.weight * embedding + config.reward.format_weight * form
        groups = torch.arange(2 * share, device=self.device).repeat_interleave(generations)
        worth = advantages(rewards, groups, scale=config.reward.scale)
        there = torch.tensor([f is None for f in rows.failed], device=self.device)
        worth = worth * there
        log = self._sampled_row(rewards, embedding, form, groups, usable, answers, passes)
        return Rollouts(
            rows,
            [p.log_probs for p in passes] if config.loss.iterations > 1 else None,
            self._reference_log_probs(rows, chunks) if config.loss.beta else None,
            worth, rewards, texts, log,
        )  # fmt: skip

    def _embedding_rewards(self, vectors: Tensor, pair: Tensor, usable: Tensor) -> Tensor:
        half = len(vectors) // 2
        sides = [slice(0, half), slice(half, None)]
        known = [(gather(vectors[s]), gather(pair[s]), gather(usable[s])) for s in sides]
        return torch.cat(
            [
                embedding_reward(
                    vectors[own], others, pair[own], other_pairs, usable=usable[own],
                    other_usable=other_usable, kind=self.config.reward.embedding,
                )
                for own, (others, other_pairs, other_usable) in zip(sides, known[::-1], strict=True)
            ]
        )  # fmt: skip

    def _reference_log_probs(self, rows: Sequences, chunks: list[list[int]]) -> list[Tensor]:
        wrapper = self.trained.wrapper
        policy: Any = self.policy if self._reference is None else self._reference
        off = wrapper.disable_adapter() if wrapper is not None else contextlib.nullcontext()
        with torch.no_grad(), off:
            return [policy(rows.select(chunk)).log_probs for chunk in chunks]

    def _update(self, group: Rollouts, last: bool, place: int) -> Row:
        """Gradients of one group of rollouts."""
        config = self.config
        length = config.loss.length or config.rollouts.new_tokens
        chunks = self._chunks(len(group.rows))
        total = len(group.rows) * processes()
        kl = clipped = tokens = loss = torch.zeros((), device=self.device)
        for index, chunk in enumerate(chunks):
            rows = group.rows.select(chunk)
            with self.no_sync(not (last and index == len(chunks) - 1)):
                self.seed_pass(place, index)
                now = self.policy(rows).log_probs
                counts = torch.tensor(
                    [len(p.ids) - n for p, n in zip(rows.prompts, rows.learned, strict=True)],
                    device=self.device,
                )
                there = torch.tensor([f is None for f in rows.failed], device=self.device)
                mask = there.repeat_interleave(counts)
                found = policy_loss(
                    now[mask],
                    now.detach()[mask] if group.old is None else group.old[index][mask],
                    None if group.reference is None else group.reference[index][mask],
                    group.advantages[chunk].repeat_interleave(counts)[mask],
                    config.loss, length,
                )  # fmt: skip
                # The mean over all processes' rows; gradients are averaged over processes.
                share = found.loss * processes() / total
                self.accelerator.backward((share + 0 * now.sum()) / config.batch.accumulate)
            loss = loss + share.detach()
            kl, clipped = kl + found.kl.sum(), clipped + found.clipped.sum()
            tokens = tokens + mask.sum()
        every = float(summed(tokens.float())) or 1.0
        mean_kl = float(summed(kl)) / every
        return {
            **group.row, "loss": self.total(loss), "kl": mean_kl,
            "clip_share": float(summed(clipped.float())) / every,
        }  # fmt: skip

    def _sampled_row(
        self, rewards: Tensor, embedding: Tensor, form: Tensor, groups: Tensor, usable: Tensor,
        answers: list[Rollout], passes: list[Any],
    ) -> Row:  # fmt: skip
        lengths = torch.tensor([float(len(a.ids)) for a in answers], device=self.device)
        spread = rewards.view(-1, self.config.rollouts.generations).std(dim=1)
        engine = torch.tensor([v for a in answers for v in a.log_probs], device=self.device)
        trained = torch.cat([p.log_probs for p in passes])
        del groups
        half = len(rewards) // 2
        means = {
            "reward": rewards, "reward_embedding": embedding, "reward_format": form,
            "reward_queries": rewards[:half], "reward_targets": rewards[half:],
            "spread": spread, "dead_groups": (spread < 1e-6).float(), "length": lengths,
            "missing_gen": 1 - usable.float(),
            # How far the engine's arithmetic is from the training pass's: on-policy means near 0.
            "engine_gap": (engine - trained).abs(),
        }  # fmt: skip
        return {
            name: float(summed(value.sum())) / max(1.0, float(summed(torch.tensor(
                float(len(value)), device=self.device))))
            for name, value in means.items()
        }  # fmt: skip

    def after_step(self, log: Log, row: Row) -> None:
        """Alarms; and a few answers as text, best and worst of a group, with their rewards."""
        self._alarm(row)
        if (self.step - 1) % _SAMPLES_EVERY or not self._kept:
            return
        group, size = self._kept[0], self.config.rollouts.generations
        shown: list[str] = []
        for first in (0, len(group.texts) // 2):
            rewards = group.rewards[first : first + size].tolist()
            for place in (max(range(size), key=rewards.__getitem__),
                          min(range(size), key=rewards.__getitem__)):  # fmt: skip
                shown.append(f"{rewards[place]:+.3f}  {group.texts[first + place]}")
        log.text("samples", "\n".join(shown), self.step)

    def _alarm(self, row: Row) -> None:
        """Warn where the policy leaves its start: KL, and answers much longer or shorter."""
        if row["kl"] > self.config.loss.kl_alarm:
            self.warn("KL", f"the KL divergence to the start is {row['kl']:.2f} a token: lower "
                      "optimizer.lr, or raise loss.beta")  # fmt: skip
        if self._length is None:
            self._length = float((read_log(self.out) or [row])[0]["length"])
        first, factor = self._length, self.config.rollouts.length_alarm
        if not first / factor <= row["length"] <= first * factor:
            self.warn("length", f"answers have {row['length']:.0f} tokens, and had {first:.0f} at "
                      "first: read samples.txt")  # fmt: skip

    def _chunks(self, rows: int) -> list[list[int]]:
        size = self.config.batch.chunk
        return [list(range(n, min(n + size, rows))) for n in range(0, rows, size)]

    def _seed(self, batch: int, prompt: int) -> int:
        """Within `Sampling.seed`'s bounds, another for every prompt of a run."""
        mixed = self.config.run.seed
        for number in (batch, prompt):
            mixed = (mixed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**64
            mixed ^= mixed >> 29
        return mixed % 2**40

    def _note(self, failed: list[str | None]) -> None:
        found = [f for f in failed if f is not None]
        if found:
            with (self.out / "skipped.jsonl").open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(f) + "\n" for f in found)
