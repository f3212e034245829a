"""The reference engine: UME-R1 on PyTorch, disc and gen, on a CPU or a CUDA device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_core.errors import (
    CheckpointError,
    EngineUnavailable,
    InvalidOption,
    LimitExceeded,
    UmeError,
)
from ume_core.forks import call_in_progress
from ume_core.options import LoadOptions
from ume_core.prompts import ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from ume_core.results import Record, Sample, Vectors
from ume_core.signature import Mode
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.embedder import Output, Outputs, Prepared, QwenEmbedder, unit
from ume_qwen.render import RenderedPrompt
from ume_torch.answers import split_answer
from ume_torch.checkpoint import load_model
from ume_torch.forks import check_process
from ume_torch.gen_cache import GenCache
from ume_torch.generate import Row, StopRules
from ume_torch.linear import cpu_has_bfloat16, pack_linears
from ume_torch.memory import is_out_of_memory
from ume_torch.options import TorchOptions
from ume_torch.runner import Generated, Kernels, Runner

_ALL_MODES: frozenset[Mode] = frozenset({"disc", "gen", "both"})


class TorchEmbedder(QwenEmbedder):
    """A loaded checkpoint. Thread-safe: nothing is written to the model while it serves.

    Attributes:
        device: the torch device it computes on.
        runner: batches and kernels.
    """

    name = "torch"
    modes = _ALL_MODES

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        engine_options: TorchOptions | None = None,
        *,
        kernels: Kernels | None = None,
    ) -> None:
        """Load a checkpoint directory or hub id.

        Args:
            model: the directory or hub id.
            options: how every engine loads it.
            engine_options: how this engine computes.
            kernels: what replaces the kernels that suit the device; for tests and measurements.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: the device, dtype or attention cannot be had here.
            LimitExceeded: it does not fit in memory.
            EngineUnavailable: torch or transformers is installed in part.
        """
        try:
            with call_in_progress():
                self._load(
                    model, options or LoadOptions(), engine_options or TorchOptions(), kernels
                )
        except UmeError:
            raise
        except Exception as error:
            raise _load_error(model, error) from error

    def _load(
        self, model: str | Path, options: LoadOptions, own: TorchOptions, kernels: Kernels | None
    ) -> None:
        checkpoint = find_checkpoint(model, name=options.name)
        self.device = _device(options.device)
        self.check_process()
        dtype = _dtype(options.dtype, self.device)
        attention = _attention(own.attention, self.device, dtype)
        super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        loaded = load_model(checkpoint, self.device, dtype, attention)
        if self.device == "cpu":
            pack_linears(loaded.model.language_model.layers)
            pack_linears(loaded.model.visual)
        self.runner = Runner(loaded, self.device, attention, own, kernels)
        self._cache = GenCache(own.gen_cache) if own.gen_cache is not None else None
        self._invariant = own.invariant

    def check_process(self) -> None:
        """See `ume_torch.forks`."""
        check_process(self.device)

    def fits(self, group: Sequence[RenderedPrompt], more: RenderedPrompt) -> bool:
        """Whether the pack stays within the token budget; invariant engines make no packs."""
        tokens = sum(len(p.ids) for p in group) + len(more.ids)
        return not self._invariant and tokens <= self.runner.pack_tokens

    def disc_vectors(self, prompts: Sequence[RenderedPrompt]) -> list[Vectors | UmeError]:
        """One pack."""
        out: list[Vectors | UmeError] = []
        for state in self.runner.disc(prompts):
            try:
                out.append(state if isinstance(state, UmeError) else _unit(state[None])[0])
            except UmeError as error:  # NaN: this item's own failure
                out.append(error)
        return out

    def outputs(
        self, prepared: Prepared, mode: Mode, budget: int, sampling: Sampling | None
    ) -> Outputs:
        """Disc vectors window by window; answers as they finish."""
        if mode == "disc":
            return super().outputs(prepared, mode, budget, sampling)
        return self._gen(prepared, budget, sampling)

    def _gen(self, prepared: Prepared, budget: int, sampling: Sampling | None) -> Outputs:
        """Answers as they finish; those of the gen cache at once."""
        signature = self.signature("gen")
        begun: dict[int, Record] = {}
        keys: dict[int, bytes] = {}
        ready: list[tuple[int, Output | UmeError]] = []

        def uncached() -> Iterator[tuple[int, RenderedPrompt]]:
            for index, item in prepared:
                if isinstance(item, UmeError):
                    ready.append((index, item))
                    continue
                if self._cache is not None:
                    keys[index] = self._cache.key(item, signature, budget, sampling)
                    kept = self._cache.get(keys[index])
                    if kept is not None:
                        record, disc, gen = kept
                        # Not kept: equal pictures may come from a sound and a damaged file.
                        record = replace(record, warnings=item.warnings)
                        ready.append((index, Output(record, disc, gen)))
                        continue
                begun[index] = Record("ok", None, len(item.ids), warnings=item.warnings)
                yield index, item

        for made in self.runner.gen(uncached(), self._rules(budget), sampling, self.beginning()):
            yield from ready
            ready.clear()
            if isinstance(made, tuple):
                yield made
                continue
            try:
                output = self._gen_output(begun.pop(made.number), made)
            except UmeError as error:
                yield made.number, error
                continue
            if self._cache is not None and output.disc is not None:
                record = replace(output.record, warnings=())
                self._cache.put(keys.pop(made.number), record, output.disc, output.gen)
            yield made.number, output
        yield from ready

    def _rules(self, budget: int) -> StopRules:
        encode = self.prepare.tokenizer.encode_trusted
        special = self.prepare.tokenizer.special
        if self.options.thinking != "short":
            return StopRules(special, budget)
        end = tuple(encode(f"{THINK_CLOSE}{ANSWER_OPEN}"))
        decode = self.prepare.tokenizer.decode
        return StopRules(
            special, budget, self.options.thinking_tokens, end,
            lambda ids: THINK_CLOSE in decode(ids),
        )  # fmt: skip

    def beginning(self) -> list[int]:
        """The beginning of every answer that is given, not chosen."""
        tokenizer = self.prepare.tokenizer
        if self.options.thinking == "skip":
            return [tokenizer.special.gen]
        if self.options.thinking == "none":
            return tokenizer.encode_trusted(f"{THINK_OPEN}{THINK_CLOSE}{ANSWER_OPEN}")
        return []

    def _gen_output(self, begun: Record, made: Generated) -> Output:
        samples = tuple(self._sample(row) for row in made.rows)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        status = "forced" if forced else "ok"
        record = replace(begun, status=status, reason=forced, samples=samples)
        vectors = _unit(torch.stack([made.disc, *(row.state for row in made.rows)]))
        return Output(record, vectors[0], list(vectors[1:]))

    def _sample(self, row: Row) -> Sample:
        text = self.prepare.tokenizer.decode(row.ids)
        thinking, summary, short = split_answer(text)
        status = "ok" if row.forced is None else "forced"
        return Sample(status, text, thinking, summary, row.generated_tokens, row.forced, short)


def _load_error(model: str | Path, error: Exception) -> UmeError:
    """What to say of an error that no reader of a file has named: what parsers raise has no end."""
    if is_out_of_memory(error):
        return LimitExceeded(
            f"{model} does not fit in memory",
            fix="free memory, use dtype='bfloat16', or load a smaller model",
        )
    if isinstance(error, ImportError):
        return EngineUnavailable(
            f"torch or transformers cannot be imported whole: {error}",
            fix="install both anew: pip install --force-reinstall torch transformers",
        )
    return CheckpointError(
        f"loading {model} raised {type(error).__name__}: {error}",
        fix="see whether ume-nano loads here: if it does, a file of this checkpoint is at fault "
        "(the traceback above names its reader), else the installation of torch or transformers",
    )


def create(model: str | Path, options: LoadOptions, engine_options: TorchOptions) -> TorchEmbedder:
    """The factory `ume_backends` names."""
    return TorchEmbedder(model, options, engine_options)


def _unit(states: Tensor) -> Vectors:
    """L2-normalised in float32."""
    return unit(states.float().cpu().numpy())


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidOption(f"unknown device {device!r}", fix="use auto, cpu or cuda:N") from error
    if kind not in ("cpu", "cuda"):
        raise InvalidOption(f"device {device!r} is not supported", fix="use auto, cpu or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidOption("CUDA is not available here", fix='use device="cpu" or "auto"')
    return device


def _dtype(dtype: str, device: str) -> str:
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    if dtype == "bfloat16" and device == "cpu" and not cpu_has_bfloat16():
        warnings.warn(
            "ume_torch: this CPU multiplies no bfloat16 matrices natively, which makes bfloat16 "
            'several times slower than float32. Fix: dtype="float32"',
            RuntimeWarning,
            stacklevel=2,
        )
    return dtype


def _attention(attention: str, device: str, dtype: str) -> str:
    has_flash = find_spec("flash_attn") is not None and dtype != "float32"
    if attention == "auto":
        return "flash_attention_2" if has_flash and device.startswith("cuda") else "sdpa"
    if attention == "flash_attention_2" and not (has_flash and device.startswith("cuda")):
        raise InvalidOption(
            "flash_attention_2 needs the flash-attn package, a CUDA device and half precision",
            fix='use attention="sdpa" (or "auto"), which gives the same vectors',
        )
    return attention
