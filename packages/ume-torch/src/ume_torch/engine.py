"""The reference engine: UME-R1 on PyTorch, disc and gen, on a CPU or a CUDA device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_core.errors import CheckpointError, InvalidOption, UmeError
from ume_core.loading import LoadOptions
from ume_core.prompts import ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from ume_core.qwen.checkpoint import find_checkpoint
from ume_core.qwen.embedder import Output, Outputs, Prepared, QwenEmbedder, unit
from ume_core.qwen.render import Rendered
from ume_core.results import Record, Sample, Vectors
from ume_core.signature import Mode
from ume_torch.answers import split_answer
from ume_torch.checkpoint import load_model
from ume_torch.gen_cache import GenCache
from ume_torch.generate import Row, Rules
from ume_torch.linear import cpu_has_bfloat16, pack_linears
from ume_torch.runner import Generated, Runner

_ALL_MODES: frozenset[Mode] = frozenset({"disc", "gen", "both"})


class TorchEmbedder(QwenEmbedder):
    """A loaded checkpoint. Thread-safe: nothing is written to the model while it serves."""

    name = "torch"
    modes = _ALL_MODES

    def __init__(self, model: str | Path, options: LoadOptions | None = None) -> None:
        """Load a checkpoint directory or hub id.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: the device, dtype or attention cannot be had here.
        """
        options = options or LoadOptions()
        try:
            self._load(model, options)
        except UmeError:
            raise
        except Exception as error:  # what foreign files can make parsers raise has no end
            raise CheckpointError(
                f"{model} cannot be loaded ({type(error).__name__}: {error})",
                fix="if plain transformers loads it here, report this as a bug",
            ) from error

    def _load(self, model: str | Path, options: LoadOptions) -> None:
        if options.provider != "auto":
            raise InvalidOption(
                "execution providers are ONNX Runtime's", fix='use device=, or engine="onnxruntime"'
            )
        checkpoint = find_checkpoint(model, name=options.name)
        self.device = _device(options.device)
        dtype = _dtype(options.dtype, self.device)
        attention = _attention(options.attention, self.device, dtype)
        super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        loaded = load_model(checkpoint, self.device, dtype, attention)
        if self.device == "cpu":
            pack_linears(loaded.model.language_model.layers)
            pack_linears(loaded.model.visual)
        self._runner = Runner(loaded, self.device, attention, options)
        self._cache = GenCache(options.gen_cache) if options.gen_cache is not None else None

    def fits(self, group: Sequence[Rendered], more: Rendered) -> bool:
        """Whether the pack stays within the token budget; invariant engines make no packs."""
        tokens = sum(len(p.ids) for p in group) + len(more.ids)
        return not self.options.invariant and tokens <= self._runner.pack_tokens

    def disc_vectors(self, prompts: Sequence[Rendered]) -> list[Vectors | UmeError]:
        """One pack."""
        out: list[Vectors | UmeError] = []
        for state in self._runner.disc(prompts):
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
        begun: dict[int, tuple[int, tuple[str, ...]]] = {}  # tokens and warnings of each prompt
        keys: dict[int, bytes] = {}
        ready: list[tuple[int, Output | UmeError]] = []

        def uncached() -> Iterator[tuple[int, Rendered]]:
            for index, item in prepared:
                if isinstance(item, UmeError):
                    ready.append((index, item))
                    continue
                if self._cache is not None:
                    keys[index] = self._cache.key(item, signature, budget, sampling)
                    kept = self._cache.get(keys[index])
                    if kept is not None:
                        ready.append((index, Output(*kept)))
                        continue
                begun[index] = len(item.ids), item.warnings
                yield index, item

        for made in self._runner.gen(uncached(), self._rules(budget), sampling, self._script()):
            yield from ready
            ready.clear()
            if isinstance(made, tuple):
                yield made
                continue
            try:
                output = self._gen_output(*begun.pop(made.number), made)
            except UmeError as error:
                yield made.number, error
                continue
            if self._cache is not None and output.disc is not None:
                self._cache.put(keys.pop(made.number), output.record, output.disc, output.gen)
            yield made.number, output
        yield from ready

    def _rules(self, budget: int) -> Rules:
        encode = self._prepare.tokenizer.encode_trusted
        special = self._prepare.tokenizer.special
        if self.options.thinking != "short":
            return Rules(special, budget)
        close = tuple(encode(f"{THINK_CLOSE}{ANSWER_OPEN}"))
        decode = self._prepare.tokenizer.decode
        return Rules(
            special, budget, self.options.thinking_tokens, close,
            lambda ids: THINK_CLOSE in decode(ids),
        )  # fmt: skip

    def _script(self) -> list[int]:
        """The beginning of every answer that is given, not chosen."""
        tokenizer = self._prepare.tokenizer
        if self.options.thinking == "skip":
            return [tokenizer.special.gen]
        if self.options.thinking == "none":
            return tokenizer.encode_trusted(f"{THINK_OPEN}{THINK_CLOSE}{ANSWER_OPEN}")
        return []

    def _gen_output(self, prompt_tokens: int, warnings: tuple[str, ...], made: Generated) -> Output:
        samples = tuple(self._sample(row) for row in made.rows)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        record = Record("forced" if forced else "ok", forced, prompt_tokens, samples, warnings)
        vectors = _unit(torch.stack([made.disc, *(row.state for row in made.rows)]))
        return Output(record, vectors[0], list(vectors[1:]))

    def _sample(self, row: Row) -> Sample:
        text = self._prepare.tokenizer.decode(row.ids)
        thinking, summary, short = split_answer(text)
        status = "ok" if row.forced is None else "forced"
        return Sample(status, text, thinking, summary, row.generated_tokens, row.forced, short)


def create(model: str | Path, options: LoadOptions) -> TorchEmbedder:
    """The factory `ume_backends` names."""
    return TorchEmbedder(model, options)


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
    if attention not in ("sdpa", "flash_attention_2"):
        raise InvalidOption(
            f"unknown attention {attention!r}", fix="use auto, sdpa or flash_attention_2"
        )
    if attention == "flash_attention_2" and not (has_flash and device.startswith("cuda")):
        raise InvalidOption(
            "flash_attention_2 needs the flash-attn package, a CUDA device and half precision",
            fix='use attention="sdpa" (or "auto"), which gives the same vectors',
        )
    return attention
