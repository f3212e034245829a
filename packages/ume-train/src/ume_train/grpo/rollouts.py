"""Answers sampled by the inference engine on the weights as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_core.errors import LimitExceeded
from ume_qwen.render import RenderedPrompt
from ume_qwen.thinking import StopRules
from ume_qwen.tokens import SpecialTokens
from ume_torch.generate import Row, choose, logprobs
from ume_torch.options import TorchOptions
from ume_torch.runner import Runner
from ume_torch.scheduler import Asked
from ume_train.config.stages import Rollouts
from ume_train.rendering import Sequences, appended


@dataclass(frozen=True)
class Rollout:
    """One answer.

    Attributes:
        ids: the tokens the model chose, with `<gen_emb>` or, where it ended without, `<|im_end|>`.
        usable: whether it has a `<gen_emb>` of its own.
        log_probs: of `ids` as the engine computed them at temperature 1, float32.
    """

    ids: list[int]
    usable: bool
    log_probs: list[float]


class Engine:
    """Rollouts on a live model, or on a copy where weights are spread or kept in another dtype.

    Args:
        model: transformers' model, whole.
        device: where rollouts are computed.
        copy: sample from a bfloat16 copy that `sync` renews.
    """

    def __init__(self, model: Any, device: torch.device, *, copy: bool) -> None:
        self._live = None if copy else model
        self.model = deepcopy(model).to(device, torch.bfloat16).eval() if copy else model
        self._device = device
        self._runner: Runner | None = None

    def sync(self, trained: Any) -> None:
        """Take the weights as they are after a step; on all processes at once where spread."""
        if self._live is None:
            sources = dict(trained.named_parameters())
            with torch.no_grad():
                for name, target in self.model.named_parameters():
                    target.copy_(_whole(sources[name]))
        if self._runner is not None:
            self._runner.weights_changed()

    def __call__(
        self,
        prompts: Sequence[RenderedPrompt],
        settings: Rollouts,
        seeds: Mapping[int, int],
        special: SpecialTokens,
    ) -> list[list[Rollout]]:
        """Sample `settings.generations` answers of each prompt, each prompt on its own seed.

        Raises:
            LimitExceeded: a prompt does not fit in memory even alone.
        """
        if self._runner is None:  # the model has reached its device by now
            self._runner = Runner(self.model, str(self._device), "sdpa", TorchOptions())
        sampling = Sampling(
            n=settings.generations, temperature=settings.temperature, top_p=settings.top_p,
            top_k=settings.top_k,
        )  # fmt: skip
        recorder = _Recorder()
        self._runner.pick = recorder
        rules = StopRules(special, settings.new_tokens)
        asked = (
            Asked(number, prompt, rules, replace(sampling, seed=seeds[number]))
            for number, prompt in enumerate(prompts)
        )
        training = self.model.training
        self.model.eval()
        try:
            found: dict[int, list[Rollout]] = {}
            with closing(self._runner.decoding(asked)) as decoding:
                while not decoding.finished:
                    for made in decoding.advance():
                        if isinstance(made, tuple):
                            number, error = made
                            raise LimitExceeded(
                                f"rollout of prompt {number}: {error.cause}", fix=error.fix
                            )
                        found[made.number] = [_rollout(r, recorder, special) for r in made.rows]
        finally:
            self.model.train(training)
        return [found[n] for n in range(len(prompts))]


class _Recorder:
    """Samples, and keeps the log-probability of what it chose."""

    def __init__(self) -> None:
        self.chosen: dict[Row, list[tuple[int, float]]] = {}

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """One draw per row."""
        tokens = choose(logits, rows)
        for row, token, value in zip(rows, tokens, logprobs(logits, tokens), strict=True):
            self.chosen.setdefault(row, []).append((token, value))
        return tokens


def _rollout(row: Row, recorder: _Recorder, special: SpecialTokens) -> Rollout:
    chosen = recorder.chosen[row]
    if row.forced is None:
        return Rollout(row.ids, True, [value for _, value in chosen])
    ids, values = row.ids[:-1], [value for _, value in chosen]
    if len(chosen) > len(ids) and chosen[len(ids)][0] in (special.end, special.pad):
        ids = [*ids, chosen[len(ids)][0]]  # it chose to end
    return Rollout(ids, False, values[: len(ids)])


def sequences(
    prompts: Sequence[RenderedPrompt], rollouts: Sequence[Sequence[Rollout]],
    failed: Sequence[str | None],
) -> Sequences:  # fmt: skip
    """Prompts and their answers as rows of a training pass, answers of one prompt together."""
    found = Sequences([], [], [], [], [], [])
    for prompt, answers, failure in zip(prompts, rollouts, failed, strict=True):
        for answer in answers:
            row = appended(prompt, answer.ids)
            found.prompts.append(row)
            found.disc.append(prompt.disc_index)
            found.gen.append(len(row.ids) - 1 if answer.usable else -1)
            found.learned.append(len(prompt.ids))
            found.keys.append(0)
            found.failed.append(failure)
    return found


def _whole(parameter: Any) -> Tensor:
    """All of a parameter that may be spread over processes."""
    if hasattr(parameter, "full_tensor"):  # FSDP2
        return parameter.full_tensor()
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        from deepspeed.runtime.zero import (  # pyright: ignore[reportMissingImports]
            GatheredParameters,
        )

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()
