"""Supervised fine-tuning: one loop, top to bottom.

Invariant: everything a step depends on is a function of the step and the checkpointed state, so
an interrupted run that resumes takes the same steps as one that was not interrupted.

Layout of a run directory: `model/` a checkpoint of the published layout (what inference loads),
`state.pt` optimizer and step, `log.jsonl` one line per logged step.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_

from ume_core.options import LoadOptions
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_torch.checkpoint import load_model, save_weights
from ume_torch.linear import cpu_has_bfloat16
from ume_train.data import Example, PairBatch, PairSource
from ume_train.forward import prompt_states
from ume_train.losses import follow, info_nce, next_token_loss, teacher_nce
from ume_train.muon import Muon

# On a CPU the flash kernel's backward took a third of a step at these short lengths.
_BACKENDS = {
    True: [SDPBackend.MATH],
    False: [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}


@dataclass(frozen=True)
class SFTConfig:
    """Settings of a run.

    Attributes:
        steps: optimizer steps in all.
        warmup: steps of linear warm-up.
        lr: peak rate of Muon (hidden matrices).
        lr_adam: of AdamW (embeddings, norms, biases).
        temperature: of both InfoNCE losses. weight_*: factors of the losses; weight_follow's, off
            by default, draws each gen vector to its own row's disc vector (`losses.follow`).
        save_every, log_every: steps.
        device: a torch device string.
        bf16: autocast matrix products to bfloat16; weights and states stay float32. None: where the
            device computes them natively; a run that is resumed goes on as it began.
    """

    steps: int
    warmup: int = 50
    lr: float = 0.01
    lr_adam: float = 2e-3
    weight_decay: float = 0.01
    temperature: float = 0.05
    weight_disc: float = 1.0
    weight_gen: float = 1.0
    weight_ce: float = 1.0
    weight_teacher: float = 1.0
    weight_follow: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 100
    log_every: int = 10
    bf16: bool | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Prepared:
    """A batch after tokenizing and patchifying; queries first, then positives.

    Attributes:
        prompts: prompt and answer of every row, as one sequence.
        learn_from: index of each row's first token that is a target (== length without answers).
        gen_index: index of `<gen_emb>` per row, -1 in disc batches.
    """

    prompts: list[RenderedPrompt]
    learn_from: list[int]
    gen_index: list[int]
    teacher: Tensor | None


class Trainer:
    """Trains the checkpoint in `run / "model"`; build one with the run's first checkpoint there."""

    def __init__(self, run: Path, source: PairSource, config: SFTConfig) -> None:
        self.run, self.source, self.config = run, source, config
        self.checkpoint = find_checkpoint(run / "model")
        self.checkpoint.weight_files()  # an adapter has none that a run could write again
        # The engine's own preparation under both text-only policies: training sees its prompts.
        self.preparers = {
            policy: Preparer(self.checkpoint, LoadOptions(text_only=policy))
            for policy in ("blank", "plain")
        }
        self.tokenizer = self.preparers["blank"].tokenizer
        self.model = load_model(self.checkpoint, config.device, "float32", "sdpa").train()
        state = self._saved()
        # A resumed run keeps its arithmetic, also on another machine.
        known = [config.bf16, state and state["config"]["bf16"], has_bf16(config.device)]
        self.bf16 = next(bool(choice) for choice in known if choice is not None)
        self.optimizers = self._optimizers()
        self.step = 0
        self._resume(state)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        for name, weight in self.model.named_parameters():
            hidden = weight.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
            (matrices if hidden else rest).append(weight)
        config = self.config
        muon = Muon(
            matrices,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=0.95,
            dtype=torch.bfloat16 if self.bf16 else torch.float32,
        )
        adam = torch.optim.AdamW(rest, lr=config.lr_adam, weight_decay=0.0, betas=(0.9, 0.98))
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        return [muon, adam]

    def train(
        self,
        on_log: Callable[[dict[str, Any]], None] = lambda row: None,
        on_save: Callable[[Path, int], None] = lambda run, step: None,
        until: int | None = None,
    ) -> None:
        """Run to `config.steps`, or to `until`; Ctrl-C saves and stops."""
        config, last = self.config, min(until or self.config.steps, self.config.steps)
        began, logged = time.monotonic(), self.step
        try:
            for prepared in self._prefetched(last):
                row = self._step(prepared)
                self.step += 1
                if self.step % config.log_every == 0 or self.step == last:
                    now = time.monotonic()
                    row |= {"step": self.step, "seconds": (now - began) / (self.step - logged)}
                    began, logged = now, self.step
                    self._log(row)
                    on_log(row)
                if self.step % config.save_every == 0 or self.step == last:
                    self.save()
                    on_save(self.run, self.step)
        except KeyboardInterrupt:
            self.save()
            raise

    def _step(self, prepared: Prepared) -> dict[str, Any]:
        config = self.config
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self._schedule()
        kind = config.device.split(":")[0]
        with (
            torch.autocast(kind, torch.bfloat16, enabled=self.bf16),
            sdpa_kernel(_BACKENDS[kind == "cpu"]),
        ):
            losses = self._losses(prepared)
            total = sum(losses.values(), torch.zeros((), device=config.device))
            total.backward()
        norm = clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        if math.isfinite(float(norm)):
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return {name: round(float(v.detach()), 4) for name, v in losses.items()} | {
            "grad": round(float(norm), 3), "gen_batch": prepared.gen_index[0] >= 0,
        }  # fmt: skip

    def _losses(self, prepared: Prepared) -> dict[str, Tensor]:
        config = self.config
        prompts = prepared.prompts
        states = prompt_states(self.model, prompts, self.tokenizer.special.pad)
        starts = np.cumsum([0, *(len(p.ids) for p in prompts)])[:-1]
        half = len(prompts) // 2

        def at(index: Sequence[int]) -> Tensor:
            """Every prompt's state at its own index, (prompts, hidden)."""
            return states[torch.from_numpy(starts + np.array(index)).to(states.device)]

        disc = at([p.disc_index for p in prompts])
        losses = {
            "disc": config.weight_disc * info_nce(disc[:half], disc[half:], config.temperature)
        }
        if prepared.teacher is not None and config.weight_teacher:
            teacher = prepared.teacher.to(states.device)
            losses["teacher"] = config.weight_teacher * (
                teacher_nce(disc[:half], teacher, config.temperature)
                + teacher_nce(disc[half:], teacher, config.temperature)
            )
        if prepared.gen_index[0] >= 0:
            gen = at(prepared.gen_index)
            losses["gen"] = config.weight_gen * info_nce(gen[:half], gen[half:], config.temperature)
            if config.weight_follow:
                losses["follow"] = config.weight_follow * follow(gen, disc)
            losses["ce"] = config.weight_ce * self._answer_loss(prepared, states, starts)
        return losses

    def _answer_loss(
        self, prepared: Prepared, states: Tensor, starts: npt.NDArray[np.int64]
    ) -> Tensor:
        picked: list[Tensor] = []
        targets: list[int] = []
        for row, prompt in enumerate(prepared.prompts):
            learned = prepared.learn_from[row]
            first, last = starts[row] + learned - 1, starts[row] + len(prompt.ids) - 1
            picked.append(states[first:last])
            targets += prompt.ids[learned:].tolist()
        target = torch.tensor(targets, device=states.device)
        return next_token_loss(torch.cat(picked), target, self.model.lm_head.weight)

    def prepare(self, batch: PairBatch) -> Prepared:
        """Tokenize and patchify a batch; CPU work that runs ahead of the model."""
        prompts: list[RenderedPrompt] = []
        learn_from: list[int] = []
        gen_index: list[int] = []
        prepare = self.preparers["blank" if batch.blank else "plain"]
        for example in (*batch.queries, *batch.positives):
            rendered = prepare(example.item, gen=batch.gen and batch.asked)
            if batch.gen:
                rendered, start = self._with_answer(rendered, example)
                gen_index.append(len(rendered.ids) - 2)
            else:  # nothing after <disc_emb> reaches its state
                rendered = rendered.until(rendered.disc_index + 1)
                start = len(rendered.ids)
                gen_index.append(-1)
            prompts.append(rendered)
            learn_from.append(start)
        teacher = torch.from_numpy(batch.teacher) if batch.teacher is not None else None
        return Prepared(prompts, learn_from, gen_index, teacher)

    def _with_answer(
        self, rendered: RenderedPrompt, example: Example
    ) -> tuple[RenderedPrompt, int]:
        """Prompt and answer as one sequence, and the index of the first token to learn."""
        answered = example.answer
        if answered is None:
            raise ValueError("a gen batch needs an answer for every example")
        special = self.tokenizer.special
        # <|im_end|> follows, so that plain transformers' generate() ends there too.
        answer = [*self.tokenizer.encode_trusted(answered.text), special.end]
        following = int(rendered.positions.max()) + 1
        run = np.arange(following, following + len(answer))
        positions = [rendered.positions, np.broadcast_to(run, (3, len(run)))]
        joined = replace(
            rendered,
            ids=np.concatenate([rendered.ids, np.array(answer)]),
            positions=np.concatenate(positions, axis=1),
        )
        start = len(rendered.ids)
        if answered.learn == "summary":
            # Where the token sequences part: a tokenizer may join characters across the border.
            lead = self.tokenizer.encode_trusted(answered.lead)
            same = (a == b for a, b in zip(lead, answer, strict=False))
            start += sum(1 for _ in itertools.takewhile(bool, same))
        return joined, start

    def _prefetched(self, last: int) -> Iterator[Prepared]:
        """Batches prepared by one thread, two ahead; a failure there is raised here."""
        waiting: queue.Queue[Prepared | BaseException] = queue.Queue(maxsize=2)
        stop = threading.Event()
        first = self.step

        def work() -> None:
            try:
                for step in range(first, last):
                    ready = self.prepare(self.source.batch(step))
                    while not stop.is_set():
                        try:
                            waiting.put(ready, timeout=0.5)
                            break
                        except queue.Full:
                            continue
                    if stop.is_set():
                        return
            except BaseException as error:
                waiting.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            for _ in range(first, last):
                ready = waiting.get()
                if isinstance(ready, BaseException):
                    raise ready
                yield ready
        finally:
            stop.set()

    def _schedule(self) -> float:
        """Warm-up, constant, then linear to zero over the last 40 %."""
        config = self.config
        rise = min(1.0, (self.step + 1) / max(1, config.warmup))
        fall = (config.steps - self.step) / max(1.0, 0.4 * config.steps)
        return min(rise, max(0.0, min(1.0, fall)))

    def save(self) -> None:
        """Write the model and the training state, each replaced in one step."""
        state = {
            "step": self.step,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "weights": self.model.state_dict(),
            "config": asdict(replace(self.config, bf16=self.bf16)),
        }
        temporary = self.run / "state.tmp"
        torch.save(state, temporary)
        save_weights(self.model, self.run / "model", torch.float32)
        os.replace(temporary, self.run / "state.pt")

    def _saved(self) -> dict[str, Any] | None:
        path = self.run / "state.pt"
        if not path.is_file():
            return None
        return torch.load(path, map_location=self.config.device, weights_only=True)

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.model.load_state_dict(state["weights"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                peaks = [g["peak"] for g in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["peak"] = peak
            self.step = int(state["step"])
        log = self.run / "log.jsonl"
        if log.is_file():  # what was logged after the last save is done again
            rows = log.read_text("utf-8").splitlines(keepends=True)
            kept = [row for row in rows if json.loads(row)["step"] <= self.step]
            log.write_text("".join(kept), "utf-8")

    def _log(self, row: dict[str, Any]) -> None:
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")


def has_bf16(device: str) -> bool:
    """Whether the device computes matrix products in bfloat16 natively."""
    if device.startswith("cpu"):
        return cpu_has_bfloat16()
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
