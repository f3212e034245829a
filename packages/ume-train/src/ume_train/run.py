"""What both stages do alike: processes, optimizers, checkpoints, logs, stopping.

Invariant: everything a step depends on is a function of the step and the checkpointed state, so
that a run that resumes, after Ctrl-C or kill -9, takes the steps of an uninterrupted one.

Layout of a run's directory: `config.yaml`; `checkpoints/step-N/`, of accelerate, complete ones
only; `model/`, a checkpoint of the published layout that every engine loads; `log.jsonl`,
`log.csv`, `tensorboard/` and `report.html`; `held-out.jsonl` and `best/`, the model that retrieved
best on held-out pairs; `warnings.jsonl`; `data/`, what is known of the records.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType
from pydantic import ValidationError
from torch import Tensor

from ume_core.errors import InvalidOption
from ume_train.config.stages import StageConfig
from ume_train.data.source import media_roots
from ume_train.evaluation import HeldOut, Pair, keep_best
from ume_train.forward import Policy
from ume_train.gather import on_cpu, processes, rank, summed
from ume_train.logs import Log, Row, read_log
from ume_train.models import find_start, has_bf16, load_trained, save_model
from ume_train.optimizers import make_optimizers, set_rate, share_of_peak
from ume_train.rendering import Renderings
from ume_train.report import write_report

# What may change between a run and its resumption.
_FREE = (
    "run.steps", "run.save_every", "run.keep", "run.log_every", "run.device", "run.save_dtype",
    "evaluate.every", "evaluate.mode", "evaluate.new_tokens",
)  # fmt: skip


class Run(ABC):
    """One stage's training of one configuration in one directory.

    Attributes:
        config: what it was told.
        held_out: pairs that are never trained on, or None.
        out: its directory.
        step: optimizer steps done.
        steps: of the whole run.
        policy: what trains, as accelerate wraps it.
    """

    stage: str

    def __init__(
        self, config: StageConfig, out: Path, steps: int, held_out: Sequence[Pair] = ()
    ) -> None:
        self.config, self.out, self.steps = config, out, steps
        self._warnings: dict[str, str] = {}
        self.accelerator = Accelerator(cpu=on_cpu(config.run.device))
        if self.accelerator.num_processes != processes():
            raise InvalidOption(
                f"accelerate knows {self.accelerator.num_processes} processes, torch {processes()}",
                fix="start with accelerate launch and one of `ume train scale`",
            )
        plugin: Any = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None:
            # transformers would spread every model that is loaded, the rollouts' whole copies too.
            plugin.dschf = None
            # accelerate reads them off a data loader, which there is none of.
            settings: dict[str, Any] = plugin.deepspeed_config
            settings["train_micro_batch_size_per_gpu"] = config.batch.chunk  # type: ignore[attr-defined]
            settings["train_batch_size"] = "auto"
        self._check_engine()
        self._check_directory()
        with self._first_alone():
            self.checkpoint = find_start(config.model.start, out)
        self.trained = load_trained(self.checkpoint, config.model)
        device = self.accelerator.device
        precision = config.model.precision
        self.bf16 = has_bf16(device) if precision == "auto" else precision == "bfloat16"
        self.render = Renderings(
            self.checkpoint, config.model, self.roots(), config.data.max_tokens
        )
        self.held_out = None
        if config.evaluate.every and held_out:
            self.held_out = HeldOut(held_out, config.evaluate, self.render, self.roots(), device)
        self.before_sharding()
        inner = Policy(
            self.trained.model, self.render.tokenizer.special.pad, bf16=self.bf16,
            even=processes() > 1,
        )  # fmt: skip
        made = make_optimizers(inner.named_parameters(), config.optimizer, bf16=self.bf16)
        if config.optimizer.name == "muon" and self.accelerator.distributed_type in (
            DistributedType.FSDP, DistributedType.DEEPSPEED,
        ):  # fmt: skip
            raise InvalidOption(
                "muon needs whole matrices, and this engine shards them",
                fix="--set optimizer.name=adamw",
            )
        self.policy, *self.optimizers = self.accelerator.prepare(inner, *made)
        self.step, self._model_at = 0, -1
        self._stop = False
        self._resume()

    def before_sharding(self) -> None:  # noqa: B027 - most need nothing
        """What a stage takes of the whole model, before its weights may be spread."""

    @property
    def may_stop(self) -> bool:
        """Whether the state after this step is all there is to go on from."""
        return True

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.accelerator.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return rank() == 0

    def roots(self) -> tuple[Path, ...]:
        """The directories that media may be read from."""
        return media_roots((*self.config.data.files, *self.config.evaluate.files))

    @abstractmethod
    def advance(self) -> Row:
        """The gradients of one optimizer step, and what to log of it."""

    def finish_step(self, row: Row) -> Row:
        """Clip, and let the optimizers step; a step whose gradients are not finite is left out."""
        settings = self.config.optimizer
        set_rate(self.optimizers, share_of_peak(settings, self.step, self.steps))
        norm: Any = self.accelerator.clip_grad_norm_(
            self.policy.parameters(), settings.max_grad_norm
        )
        size = float(norm) if norm is not None else float("nan")
        engine = self.accelerator.distributed_type is DistributedType.DEEPSPEED
        if engine or size - size == 0:  # neither inf nor NaN
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            self.warn("gradients", "gradients are not finite: the step is left out")
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        rate = self.optimizers[0].param_groups[0]["lr"]
        return row | {"grad_norm": size, "lr": rate}

    def train(self, until: int | None = None) -> bool:
        """Go on to the end, or to step `until`; Ctrl-C and SIGTERM save and stop.

        Returns:
            Whether the run is complete.
        """
        settings, last = self.config.run, min(until or self.steps, self.steps)
        log = Log(self.out, self.step, self.steps, shown=self.first)
        with self._stoppable():
            if self.step:
                self._evaluate(log)  # where it was stopped before that
            while self.step < last:
                began = time.monotonic()
                row = self.finish_step(self.advance())
                self.step += 1
                row = {"step": self.step, **row, "seconds": time.monotonic() - began}
                if self.step % settings.log_every == 0 or self.step == last:
                    log.add({k: _rounded(v) for k, v in row.items()})
                self.after_step(log, row)
                self._pass_warnings(log)
                log.show(self.step, float(row.get("loss", 0.0)))
                stopping = self._all_stop() and self.may_stop
                due = self.step % settings.save_every == 0 and self.may_stop
                if due or self.step == last or stopping:
                    self.save()
                self._evaluate(log)
                if stopping:
                    break
        log.close()
        if self.first:
            write_report(self.out, self.stage)
        return self.step >= self.steps

    def after_step(self, log: Log, row: Row) -> None:  # noqa: B027 - as above
        """What a stage says of a step besides its row."""

    def warn(self, name: str, text: str) -> None:
        """Say after this step, on the terminal and in log and report, that something is wrong."""
        self._warnings[name] = text

    def save(self) -> None:
        """Write the model, then the state to go on from; each in place of the last in one step."""
        self._save_model()  # first: a state is never there without its model
        folder = self.out / "checkpoints"
        partial, done = folder / f"step-{self.step:06}.partial", folder / f"step-{self.step:06}"
        if self.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        _quiet()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.first:
            (partial / "step.json").write_text(json.dumps({"step": self.step}), "utf-8")
            shutil.rmtree(done, ignore_errors=True)
            os.replace(partial, done)
            for old in self._saved()[: -self.config.run.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _save_model(self) -> None:
        self._model_at = self.step
        state: Any = self.accelerator.get_state_dict(self.policy)
        if self.first:
            named: dict[str, Tensor] = {
                name.removeprefix("model."): value for name, value in state.items()
            }
            conventions = self.render.conventions
            low, high = self.config.model.min_pixels, self.config.model.max_pixels
            if low is not None and high is not None:
                conventions = replace(conventions, image_pixels=(low, high))
            aligned = conventions.aligned or self.aligns
            save_model(
                self.trained, named, replace(conventions, aligned=aligned), self.out / "model",
                self.config.run.save_dtype,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def _evaluate(self, log: Log) -> None:
        """Measure held-out retrieval where it is due and not known, and keep the best model."""
        held, every = self.held_out, self.config.evaluate.every
        due = held is not None and (self.step % every == 0 or self.step == self.steps)
        if held is None or not due:
            return
        known = read_log(self.out, "held-out")
        done = self.first and any(r["step"] == self.step for r in known)
        if summed(torch.tensor(float(done), device=self.device)) > 0:
            return
        if self._model_at != self.step:
            self._save_model()
        found = held.measure(self.out / "model")
        if not self.first:
            return
        # Of equals the later: it has learned more.
        best = all(found["recall"] >= r["recall"] for r in known)
        if best:
            keep_best(self.out / "model", self.out / "best")
        log.measured({"step": self.step, **found, "best": best})

    def _pass_warnings(self, log: Log) -> None:
        log.warn(self._warnings, self.step)
        self._warnings = {}

    @property
    def aligns(self) -> bool:
        """Whether disc and gen are trained to find each other."""
        return False

    @contextlib.contextmanager
    def no_sync(self, skip: bool) -> Iterator[None]:
        """Gradients stay in this process where `skip`; for all passes of a step but the last."""
        self.accelerator.sync_gradients = not skip
        try:
            with self.accelerator.no_sync(self.policy) if skip else contextlib.nullcontext():
                yield
        finally:
            self.accelerator.sync_gradients = True

    def seed_pass(self, *numbers: int) -> None:
        """Dropout as a function of the step and the pass, also where a pass is done twice."""
        mixed = 0
        for number in (self.config.run.seed, self.step, rank(), *numbers):
            mixed = (mixed * 1_000_003 + number) % (2**63)
        torch.manual_seed(mixed)

    def total(self, value: Tensor) -> float:
        """A share's sum over processes, divided by their number."""
        return float(summed(value.float().to(self.device))) / processes()

    def _saved(self) -> list[Path]:
        found = (self.out / "checkpoints").glob("step-*")
        return sorted(p for p in found if (p / "step.json").is_file() and p.suffix != ".partial")

    def _resume(self) -> None:
        found = self._saved()
        if found:
            peaks = [[g["peak"] for g in o.param_groups] for o in self.optimizers]
            self.accelerator.load_state(str(found[-1]))
            for optimizer, known in zip(self.optimizers, peaks, strict=True):
                for group, peak in zip(optimizer.param_groups, known, strict=True):
                    group["peak"] = peak
            self.step = int(json.loads((found[-1] / "step.json").read_text("utf-8"))["step"])

    def _check_engine(self) -> None:
        """accelerate takes no notice on a CPU of what it cannot spread there."""
        for name in ("FSDP", "DEEPSPEED"):
            asked = os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"
            if asked and self.accelerator.distributed_type is not DistributedType[name]:
                raise InvalidOption(
                    f"accelerate spreads weights with {name} over GPUs alone, and there are none",
                    fix="start with the configuration `ume train scale ddp`, or torchrun",
                )

    def _check_directory(self) -> None:
        """One configuration a directory: a run that resumes must be the one that began."""
        if not self.first:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        path, given = self.out / "config.yaml", self.config.model_dump(mode="json")
        if path.is_file() and (self.out / "checkpoints").is_dir():
            before: Any = yaml.safe_load(path.read_text("utf-8"))
            with contextlib.suppress(ValidationError):  # keys that have come since
                before = type(self.config).model_validate(before).model_dump(mode="json")
            changed = [k for k in _differing(before, given) if k not in _FREE]
            if changed:
                raise InvalidOption(
                    f"{self.out} holds a run of another configuration ({', '.join(changed)})",
                    fix="give another --out, or the configuration in its config.yaml",
                )
        path.write_text(yaml.safe_dump(given, sort_keys=False), "utf-8")

    @contextlib.contextmanager
    def _first_alone(self) -> Iterator[None]:
        """The first process goes before the others."""
        if not self.first:
            self.accelerator.wait_for_everyone()
        yield
        if self.first:
            self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """A first signal ends the run after this step, a second at once."""

        def stop(number: int, frame: types.FrameType | None) -> None:
            del number, frame
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before: dict[int, Any] = {}
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                before[name] = signal.signal(name, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _all_stop(self) -> bool:
        """Whether any process was told to stop; all agree."""
        return bool(summed(torch.tensor(float(self._stop), device=self.device)) > 0)


def _differing(before: Any, after: Any, place: str = "") -> list[str]:
    """Keys with dots at which two configurations differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            found
            for key in keys
            for found in _differing(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if before == after else [place]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _quiet() -> None:
    """accelerate warns that tied weights are stored once, which they are meant to be."""
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
