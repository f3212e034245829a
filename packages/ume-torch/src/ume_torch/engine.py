"""The reference engine: UME-R1 on PyTorch, disc and gen, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.embedder import OnError, Progress, Sampling, prepare_items, require_mode
from ume_core.errors import (
    CheckpointError,
    InvalidItem,
    InvalidOption,
    LimitExceeded,
    UmeError,
)
from ume_core.items import Item, ItemLike, check_batch
from ume_core.loading import LoadOptions
from ume_core.prompts import ANSWER_CLOSE, ANSWER_OPEN, GEN_TOKEN, THINK_CLOSE, THINK_OPEN
from ume_core.results import EmbeddingResult, Record, Sample, Vectors
from ume_core.signature import Mode, Signature
from ume_torch.checkpoint import find_checkpoint, load_model, weights_digest
from ume_torch.forward import build_batch, run_text
from ume_torch.generate import Generation, generate
from ume_torch.prepare import Preparer
from ume_torch.render import Rendered

_ALL_MODES: frozenset[Mode] = frozenset({"disc", "gen", "both"})
# Items that are decoded ahead of the model, so that lengths can be sorted; whichever comes first.
_WINDOW = 64
_WINDOW_BYTES = 512 * 1024 * 1024
# Rows decoded together; a decoding step of few rows costs little more than one of one row.
_GEN_ROWS = 32


@dataclass(frozen=True)
class _Output:
    record: Record
    disc: Vectors | None
    gen: list[Vectors]


class TorchEmbedder:
    """A loaded checkpoint. Thread-safe: nothing is written to the model while it serves."""

    name = "torch"
    modes = _ALL_MODES

    def __init__(self, model: str | Path, options: LoadOptions | None = None) -> None:
        """Load a checkpoint directory or hub id.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: the device, dtype or attention cannot be had here.
        """
        self.options = options or LoadOptions()
        try:
            self._load(model)
        except UmeError:
            raise
        except Exception as error:  # what foreign files can make parsers raise has no end
            raise CheckpointError(
                f"{model} cannot be loaded ({type(error).__name__}: {error})",
                fix="check its config.json, tokenizer.json and chat template",
            ) from error

    def _load(self, model: str | Path) -> None:
        self.checkpoint = find_checkpoint(model, name=self.options.name)
        self.device = _device(self.options.device)
        self.dtype = _dtype(self.options.dtype, self.device)
        attention = _attention(self.options.attention, self.device)
        self._prepare = Preparer(self.checkpoint, self.options)
        self._model = load_model(self.checkpoint, self.device, self.dtype, attention)
        self._signature = self._make_signature()

    @property
    def dimensions(self) -> int:
        """Length of a vector (2B: 1536, 7B: 3584)."""
        return self.checkpoint.hidden_size

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode."""
        return self._signature.for_mode(mode)

    def embed(
        self,
        items: Sequence[ItemLike],
        *,
        mode: Mode = "disc",
        instruction: str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
    ) -> EmbeddingResult:
        """See `ume_core.Embedder.embed`. Tolerance between batches: 1e-5 in float32."""
        mode = require_mode(mode, self.modes, self.name)
        budget = self._budget(max_new_tokens)
        if sampling is not None and mode == "disc":
            raise InvalidOption("sampling was given in disc mode", fix="use mode='gen' or 'both'")
        gen = mode != "disc"
        check_batch(items)

        def prepare(item: Item) -> Rendered:
            rendered = self._prepare(item, gen=gen)
            self._check_room(rendered, budget if gen else 0)
            return rendered

        if not items:
            raise InvalidItem("the list of items is empty", fix="pass at least one item")
        outputs: list[_Output] = []
        window: list[Rendered | UmeError] = []
        held = 0
        for index, item in enumerate(items):
            window += prepare_items(
                [item], prepare, instruction=instruction, on_error=on_error, first=index
            )
            held += _bytes(window[-1])
            if len(window) < _WINDOW and held < _WINDOW_BYTES and index + 1 < len(items):
                continue
            for done in self._run_window(window, mode, budget, sampling, outputs):
                if progress is not None:
                    progress(done, len(items))
            window, held = [], 0
        return self._result(outputs, mode, sampling.n if sampling is not None else 1)

    def _run_window(
        self,
        window: list[Rendered | UmeError],
        mode: Mode,
        budget: int,
        sampling: Sampling | None,
        outputs: list[_Output],
    ) -> Iterator[int]:
        """Run the good items of a window in batches of like length; yields items done so far."""
        found: dict[int, _Output] = {}
        ready = [(i, p) for i, p in enumerate(window) if isinstance(p, Rendered)]
        for index, item in enumerate(window):
            if not isinstance(item, Rendered):
                found[index] = _Output(Record("failed", str(item)), None, [])
        samples = sampling.n if sampling is not None else 1
        for group in self._batches(ready, samples if mode != "disc" else 0):
            made = self._run_batch([p for _, p in group], mode, budget, sampling)
            for (index, _), output in zip(group, made, strict=True):
                found[index] = output
            yield len(outputs) + len(found)
        outputs += [found[i] for i in range(len(window))]

    def _batches(
        self, ready: list[tuple[int, Rendered]], samples: int
    ) -> Iterator[list[tuple[int, Rendered]]]:
        """Groups whose padded size stays within the token budget, shortest prompts first."""
        group: list[tuple[int, Rendered]] = []
        for entry in sorted(ready, key=lambda e: len(e[1].ids)):
            rows = len(group) + 1
            full = rows * len(entry[1].ids) > self.options.batch_tokens
            if group and (full or rows * samples > _GEN_ROWS):
                yield group
                group = []
            group.append(entry)
        if group:
            yield group

    @torch.inference_mode()
    def _run_batch(
        self, prompts: list[Rendered], mode: Mode, budget: int, sampling: Sampling | None
    ) -> list[_Output]:
        if mode == "disc":  # attention is causal: nothing behind <disc_emb> reaches its state
            prompts = [p.until(p.disc_index + 1) for p in prompts]
        special = self._prepare.tokenizer.special
        batch = build_batch(self._model, prompts, special.pad)
        rows = torch.arange(len(prompts), device=batch.mask.device)
        if mode == "disc":
            states = run_text(self._model, batch)
            disc = _unit(states[rows, batch.disc_index])
            return [
                _Output(Record("ok", None, len(p.ids)), v, [])
                for p, v in zip(prompts, disc, strict=True)
            ]
        from transformers import DynamicCache

        cache = DynamicCache()
        states = run_text(self._model, batch, cache)
        disc = _unit(states[rows, batch.disc_index])
        made = generate(
            self._model, batch, states, cache, special, budget=budget, sampling=sampling
        )
        return [
            self._gen_output(prompt, vector if mode == "both" else None, generations)
            for prompt, vector, generations in zip(prompts, disc, made, strict=True)
        ]

    def _gen_output(
        self, prompt: Rendered, disc: Vectors | None, generations: list[Generation]
    ) -> _Output:
        samples = tuple(self._sample(g) for g in generations)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        record = Record("forced" if forced else "ok", forced, len(prompt.ids), samples)
        states = [g.state for g in generations if g.state is not None]
        return _Output(record, disc, list(_unit(torch.stack(states))))

    def _sample(self, generation: Generation) -> Sample:
        text = self._prepare.tokenizer.decode(generation.ids)
        thinking, summary = split_answer(text)
        status = "ok" if generation.forced is None else "forced"
        tokens = generation.generated_tokens
        return Sample(status, text, thinking, summary, tokens, generation.forced)

    def _result(self, outputs: list[_Output], mode: Mode, samples: int) -> EmbeddingResult:
        shape = (len(outputs), samples, self.dimensions)
        disc = np.full((shape[0], shape[2]), np.nan, dtype=np.float32)
        gen = np.full(shape, np.nan, dtype=np.float32) if mode != "disc" else None
        for row, output in enumerate(outputs):
            if output.disc is not None:
                disc[row] = output.disc
            if gen is not None and output.gen:
                gen[row] = np.stack(output.gen)
        return EmbeddingResult(
            tuple(o.record for o in outputs),
            self.signature(mode),
            disc=disc if mode != "gen" else None,
            gen_samples=gen,
        )

    def _budget(self, asked: int | None) -> int:
        budget: object = self.options.limits.new_tokens if asked is None else asked
        if not isinstance(budget, Integral) or int(budget) < 1:
            raise InvalidOption(f"max_new_tokens is {budget!r}", fix="pass a whole number from 1")
        return int(budget)

    def _check_room(self, rendered: Rendered, budget: int) -> None:
        context = self.checkpoint.context_length
        if len(rendered.ids) + budget + 1 > context:
            raise LimitExceeded(
                f"the prompt's {len(rendered.ids):,} tokens and {budget:,} new ones exceed the "
                f"model's context of {context:,}",
                fix="shorten the item or lower max_new_tokens",
            )

    def _make_signature(self) -> Signature:
        options, patches = self.options, self.checkpoint.patches
        return Signature(
            model=self.checkpoint.name,
            weights=weights_digest(self.checkpoint.directory),
            mode="disc",
            prompt=options.prompt,
            text_only=options.text_only,
            media_order=options.media_order,
            min_pixels=patches.min_pixels,
            max_pixels=patches.max_pixels,
            max_frames=options.limits.video_frames,
            dtype=self.dtype,
            dimensions=self.dimensions,
            aligned=options.aligned,
        )


def split_answer(text: str) -> tuple[str, str]:
    """(thinking, summary) of a generated answer; a part that is not there is empty."""
    thinking, closed, rest = text.partition(THINK_CLOSE)
    if not closed:
        return text.partition(THINK_OPEN)[2].partition(GEN_TOKEN)[0].strip(), ""
    rest = rest.partition(GEN_TOKEN)[0].replace(ANSWER_OPEN, "").replace(ANSWER_CLOSE, "")
    return thinking.partition(THINK_OPEN)[2].strip(), rest.strip()


def create(model: str | Path, options: LoadOptions) -> TorchEmbedder:
    """The factory `ume_backends` names."""
    return TorchEmbedder(model, options)


def _bytes(prepared: Rendered | UmeError) -> int:
    return sum(m.patches.nbytes for m in prepared.media) if isinstance(prepared, Rendered) else 0


def _unit(states: Tensor) -> Vectors:
    """L2-normalised in float32."""
    vectors = F.normalize(states.float(), dim=-1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            "the model produced NaN or infinity", fix="use dtype float32, or another checkpoint"
        )
    return vectors


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
    return dtype


def _attention(attention: str, device: str) -> str:
    has_flash = find_spec("flash_attn") is not None
    if attention == "auto":
        return "flash_attention_2" if has_flash and device.startswith("cuda") else "sdpa"
    if attention not in ("sdpa", "eager", "flash_attention_2"):
        raise InvalidOption(f"unknown attention {attention!r}", fix="use sdpa, eager or auto")
    if attention == "flash_attention_2" and not (has_flash and device.startswith("cuda")):
        raise InvalidOption(
            "flash_attention_2 needs the flash-attn package and a CUDA device",
            fix='use attention="sdpa" (or "auto"), which gives the same vectors',
        )
    return attention
