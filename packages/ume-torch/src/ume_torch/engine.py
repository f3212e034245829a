"""The reference engine: UME-R1 on PyTorch, disc and gen, on a CPU or a CUDA device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ume_core.embedder import check_embed, prepare_item
from ume_core.errors import (
    CheckpointError,
    EngineUnavailable,
    InvalidOption,
    LimitExceeded,
    UmeError,
)
from ume_core.forks import call_in_progress
from ume_core.items import Item, ItemLike
from ume_core.options import LoadOptions
from ume_core.results import EmbeddingResult, Vectors
from ume_core.signature import Mode
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.decoding import GenRequest, Output
from ume_qwen.embedder import QwenEmbedder
from ume_qwen.render import RenderedPrompt
from ume_torch.answering import Answering, unit_rows
from ume_torch.checkpoint import load_model
from ume_torch.forks import check_process
from ume_torch.gen_cache import GenCache
from ume_torch.linear import cpu_has_bfloat16, pack_linears
from ume_torch.memory import is_out_of_memory
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels, Runner

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
                out.append(state if isinstance(state, UmeError) else unit_rows(state[None])[0])
            except UmeError as error:  # NaN: this item's own failure
                out.append(error)
        return out

    def embed_after(
        self,
        items: Sequence[ItemLike],
        beginnings: Sequence[str],
        *,
        max_new_tokens: int | None = None,
    ) -> EmbeddingResult:
        """See `ume_core.embedder.BeginsAnswers`."""
        batch, budget = check_embed(items, "raise"), self.budget(max_new_tokens)
        if len(beginnings) != len(batch):
            raise InvalidOption(
                f"{len(batch)} items have {len(beginnings)} beginnings", fix="pass one for each"
            )

        def prepare(item: Item) -> RenderedPrompt:
            return self.prepared(item, "gen", budget)

        def requests() -> Iterator[GenRequest]:
            for index, text in enumerate(beginnings):
                prompt = prepare_item(batch, index, prepare, instruction=None, on_error="raise")
                assert not isinstance(prompt, UmeError)
                yield GenRequest(index, prompt, budget, beginning=text)

        self.check_process()
        outputs: dict[int, Output] = {}
        with call_in_progress(), closing(self.decoding(requests())) as answering:
            while not answering.finished:
                for index, output in answering.advance():
                    if isinstance(output, UmeError):
                        raise output.at(index)
                    outputs[index] = output
        result = self.result([outputs[i] for i in range(len(batch))], "gen", 1)
        return replace(result, signature=replace(result.signature, thinking="given"))

    def decoding(self, requests: Iterator[GenRequest | None], *, samples: int = 1) -> Answering:
        """Answers that decode together; see `QwenEmbedder.decoding`."""
        rows = max(samples, 1 if self._invariant else self.runner.rows)
        return Answering(
            requests, lambda asked: self.runner.decoding(asked, rows),
            self.prepare, self.signature("gen"), self._cache,
        )  # fmt: skip


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
