"""The reference engine: UME-R1 on PyTorch, disc and gen, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.ahead import prepare_ahead
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
from ume_core.qwen.checkpoint import find_checkpoint, weights_digest
from ume_core.qwen.prepare import Preparer
from ume_core.qwen.render import Rendered
from ume_core.results import EmbeddingResult, Record, Sample, Vectors
from ume_core.signature import Mode, Signature
from ume_torch.checkpoint import load_model
from ume_torch.gen_cache import GenCache
from ume_torch.generate import Row, Rules
from ume_torch.linear import pack_linears
from ume_torch.runner import Generated, Runner

_ALL_MODES: frozenset[Mode] = frozenset({"disc", "gen", "both"})
# Items among which packs are formed; whichever comes first.
_WINDOW = 256
_WINDOW_BYTES = 256 * 1024 * 1024
_Prepared: TypeAlias = "Iterator[tuple[int, Rendered | UmeError]]"


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
        loaded = load_model(self.checkpoint, self.device, self.dtype, attention)
        if self.device == "cpu":
            pack_linears(loaded.model.language_model.layers)
            pack_linears(loaded.model.visual)
        self._runner = Runner(loaded, self.device, attention, self.options)
        self._signature = self._make_signature()
        path = self.options.gen_cache
        self._cache = GenCache(path) if path is not None else None

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
        check_batch(items)
        if not items:
            raise InvalidItem("the list of items is empty", fix="pass at least one item")
        gen = mode != "disc"

        def prepare(item: Item) -> Rendered:
            rendered = self._prepare(item, gen=gen)
            self._check_room(rendered, budget if gen else 0)
            return rendered

        def prepare_one(index: int) -> Rendered | UmeError:
            (found,) = prepare_items(
                [items[index]], prepare, instruction=instruction, on_error=on_error, first=index
            )
            return found

        outputs: dict[int, _Output] = {}
        prepared = enumerate(prepare_ahead(len(items), prepare_one, _bytes))
        run = self._gen(prepared, budget, sampling) if gen else self._disc(prepared)
        for index, output in run:
            if isinstance(output, UmeError):
                if on_error == "raise":
                    raise output.at(index)
                output = _Output(Record("failed", str(output)), None, [])
            outputs[index] = output
            if progress is not None:
                progress(len(outputs), len(items))
        ordered = [outputs[i] for i in range(len(items))]
        return self._result(ordered, mode, sampling.n if sampling is not None else 1)

    def _disc(self, prepared: _Prepared) -> Iterator[tuple[int, _Output | UmeError]]:
        """Windows of prepared items, each cut into packs of like length."""
        window: list[tuple[int, Rendered]] = []
        held = 0
        for index, item in prepared:
            if isinstance(item, UmeError):
                yield index, item
                continue
            window.append((index, item))
            held += _bytes(item)
            if len(window) >= _WINDOW or held >= _WINDOW_BYTES:
                yield from self._disc_window(window)
                window, held = [], 0
        yield from self._disc_window(window)

    def _disc_window(
        self, window: list[tuple[int, Rendered]]
    ) -> Iterator[tuple[int, _Output | UmeError]]:
        waiting = sorted(window, key=lambda e: (e[1].head_key, len(e[1].ids)))
        while waiting:
            group = self._pack_of(waiting)
            waiting = waiting[len(group) :]
            for (index, prompt), state in zip(
                group, self._runner.disc([p for _, p in group]), strict=True
            ):
                if isinstance(state, UmeError):
                    yield index, state
                else:
                    record = Record("ok", None, prompt.disc_index + 1)
                    yield index, _Output(record, _unit(state[None])[0], [])

    def _pack_of(self, waiting: list[tuple[int, Rendered]]) -> list[tuple[int, Rendered]]:
        """The first items that fit one pack, at least one."""
        if self.options.invariant:
            return waiting[:1]
        tokens = 0
        for count, (_, prompt) in enumerate(waiting):
            tokens += prompt.disc_index + 1
            if count and tokens > self._runner.pack_tokens:
                return waiting[:count]
        return waiting

    def _gen(
        self, prepared: _Prepared, budget: int, sampling: Sampling | None
    ) -> Iterator[tuple[int, _Output | UmeError]]:
        """Answers as they finish; those of the gen cache at once."""
        signature = self.signature("gen")
        lengths: dict[int, int] = {}
        keys: dict[int, bytes] = {}
        ready: list[tuple[int, _Output | UmeError]] = []

        def uncached() -> Iterator[tuple[int, Rendered]]:
            for index, item in prepared:
                if isinstance(item, UmeError):
                    ready.append((index, item))
                    continue
                if self._cache is not None:
                    keys[index] = self._cache.key(item, signature, budget, sampling)
                    kept = self._cache.get(keys[index])
                    if kept is not None:
                        ready.append((index, _Output(*kept)))
                        continue
                lengths[index] = len(item.ids)
                yield index, item

        for made in self._runner.gen(uncached(), self._rules(budget), sampling, self._script()):
            yield from ready
            ready.clear()
            if isinstance(made, tuple):
                yield made
                continue
            output = self._gen_output(lengths.pop(made.number), made)
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

    def _gen_output(self, prompt_tokens: int, made: Generated) -> _Output:
        samples = tuple(self._sample(row) for row in made.rows)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        record = Record("forced" if forced else "ok", forced, prompt_tokens, samples)
        vectors = _unit(torch.stack([made.disc, *(row.state for row in made.rows)]))
        return _Output(record, vectors[0], list(vectors[1:]))

    def _sample(self, row: Row) -> Sample:
        text = self._prepare.tokenizer.decode(row.ids)
        thinking, summary = split_answer(text)
        status = "ok" if row.forced is None else "forced"
        return Sample(status, text, thinking, summary, row.generated_tokens, row.forced)

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

    def _thinking(self) -> str:
        if self.options.thinking != "short":
            return self.options.thinking
        if self.options.thinking_tokens < 1:
            raise InvalidOption(
                f"thinking_tokens is {self.options.thinking_tokens}", fix="pass a number from 1"
            )
        return f"short-{self.options.thinking_tokens}"

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
            thinking=self._thinking(),
            decoding="draft" if options.jpeg_draft else "exact",
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
    if attention not in ("sdpa", "flash_attention_2"):
        raise InvalidOption(
            f"unknown attention {attention!r}", fix="use auto, sdpa or flash_attention_2"
        )
    if attention == "flash_attention_2" and not (has_flash and device.startswith("cuda")):
        raise InvalidOption(
            "flash_attention_2 needs the flash-attn package and a CUDA device",
            fix='use attention="sdpa" (or "auto"), which gives the same vectors',
        )
    return attention
