"""What every engine for these checkpoints does alike: prepare ahead, answer in order, record."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from numbers import Integral
from typing import NoReturn, TypeAlias

import numpy as np

from ume_core.embedder import (
    OnError,
    Progress,
    Sampling,
    check_embed,
    prepare_item,
    require_mode,
)
from ume_core.errors import (
    CheckpointError,
    InvalidOption,
    LimitExceeded,
    ModeNotSupported,
    UmeError,
)
from ume_core.forks import call_in_progress, gpu_was_forked
from ume_core.items import Item, ItemLike
from ume_core.options import LoadOptions
from ume_core.results import EmbeddingResult, Record, Vectors
from ume_core.session import BULK_LATER
from ume_core.signature import MODES, Mode, Signature, check_mode
from ume_qwen.checkpoint import Checkpoint
from ume_qwen.decoding import Decoding, GenRequest, Output
from ume_qwen.prefetch import prepare_ahead
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_qwen.session import QwenSession

# Items among which batches are formed; whichever comes first.
_WINDOW = 256
_WINDOW_BYTES = 256 * 1024 * 1024
_GIVEN_TOKENS = 32  # more than any given beginning or close of an answer
Prepared: TypeAlias = "Iterator[tuple[int, RenderedPrompt | UmeError]]"
Outputs: TypeAlias = "Generator[tuple[int, Output | UmeError]]"


class QwenEmbedder(ABC):
    """Base of the engines; a subclass brings the model.

    Attributes:
        checkpoint: the files.
        options: how it was loaded.
        dtype: the arithmetic, for signatures.
        uses_gpu: whether it computes on one, which no forked process inherits.
    """

    name: str
    modes: frozenset[Mode]
    uses_gpu: bool = False

    def __init__(
        self, checkpoint: Checkpoint, options: LoadOptions, *, dtype: str, weights: str
    ) -> None:
        self.checkpoint, self.options, self.dtype = checkpoint, options, dtype
        self._loaded_in = os.getpid()
        self.prepare = Preparer(checkpoint, options)
        conventions, patches = self.prepare.conventions, self.prepare.patchify.config
        signature = Signature(
            model=checkpoint.name,
            weights=weights,
            mode="disc",
            prompt=conventions.prompt.name,
            text_only=conventions.text_only,
            media_order=conventions.media_order,
            frame_lists=conventions.frame_lists,
            min_pixels=patches.min_pixels,
            max_pixels=patches.max_pixels,
            max_frames=options.limits.video_frames,
            dtype=dtype,
            dimensions=checkpoint.hidden_size,
            aligned=conventions.aligned,
            thinking=_thinking(options),
            decoding="draft" if options.jpeg_draft else "exact",
        )
        self._signatures = {mode: signature.for_mode(mode) for mode in MODES}

    @abstractmethod
    def disc_vectors(self, prompts: Sequence[RenderedPrompt]) -> list[Vectors | UmeError]:
        """Unit disc vectors (dim,) of prompts that `fits` let through together."""

    @abstractmethod
    def fits(self, group: Sequence[RenderedPrompt], more: RenderedPrompt) -> bool:
        """Whether one more prompt may be computed together with these."""

    def check_process(self) -> None:
        """Refuse to compute where it would hang or fail, as in some forked processes.

        Raises:
            EngineUnavailable: so here.
        """
        if self.uses_gpu and os.getpid() != self._loaded_in:
            raise gpu_was_forked()

    def outputs(
        self, prepared: Prepared, mode: Mode, budget: int, sampling: Sampling | None
    ) -> Outputs:
        """Items as they finish: disc window by window, answers one by one.

        `mode` is one of the engine's own; `budget` and `sampling` are gen's.
        """
        if mode == "disc":
            return self._disc(prepared)
        return self._gen(prepared, budget, sampling)

    @property
    def dimensions(self) -> int:
        """Length of a vector (2B: 1536, 7B: 3584)."""
        return self.checkpoint.hidden_size

    def signature(self, mode: Mode) -> Signature:
        """The signature of vectors of this mode."""
        return self._signatures[check_mode(mode)]

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
        mode = require_mode(mode, self.modes, self.name, self.checkpoint.directory)
        budget = self.budget(max_new_tokens)
        if sampling is not None and mode == "disc":
            raise InvalidOption("sampling was given in disc mode", fix="use mode='gen' or 'both'")
        batch = check_embed(items, on_error)

        def prepare(item: Item) -> RenderedPrompt:
            return self.prepared(item, mode, budget)

        def prepare_one(index: int) -> RenderedPrompt | UmeError:
            return prepare_item(batch, index, prepare, instruction=instruction, on_error=on_error)

        outputs: dict[int, Output] = {}
        ahead = prepare_ahead(len(batch), prepare_one, _bytes)
        prepared = enumerate(ahead)
        run = self.outputs(prepared, mode, budget, sampling)
        # Closed at once when something raises: threads, pictures and caches must not wait for the
        # garbage collector.
        self.check_process()
        with call_in_progress(), closing(ahead), closing(run):
            for index, output in run:
                if isinstance(output, UmeError):
                    if on_error == "raise":
                        raise output.at(index)
                    output = Output(Record("failed", str(output)), None, [])
                outputs[index] = output
                if progress is not None:
                    progress(len(outputs), len(batch))
        ordered = [outputs[i] for i in range(len(batch))]
        return self.result(ordered, mode, sampling.n if sampling is not None else 1)

    def prepared(self, item: Item, mode: Mode, budget: int, scope: str = "") -> RenderedPrompt:
        """An item's prompt; in disc mode up to `<disc_emb>`, as attention is causal.

        Args:
            item: what to embed.
            mode: of its vectors.
            budget: tokens of gen.
            scope: whose it is: nothing that is remembered of it serves another scope.

        Raises:
            UmeError: it is unreadable, forbidden or too large.
        """
        gen = mode != "disc"
        rendered = self.prepare(item, gen=gen, scope=scope)
        self.check_room(rendered, budget if gen else 0)
        return rendered if gen else rendered.until(rendered.disc_index + 1)

    def session(self, *, bulk_later: float = BULK_LATER) -> QwenSession:
        """A session of many callers on this model; see `ume_core.session.open_session`."""
        return QwenSession(self, bulk_later)

    def decoding(self, requests: Iterator[GenRequest | None], *, samples: int = 1) -> Decoding:
        """Answers that decode together, for an engine that has gen.

        Args:
            requests: what is asked for; None says that there is nothing yet.
            samples: answers of one request, for which there must be room together.

        Raises:
            ModeNotSupported: the engine has no gen.
        """
        del requests, samples
        raise ModeNotSupported(f"the {self.name} engine has no gen mode", fix="use mode='disc'")

    def __repr__(self) -> str:
        return f"<{self.checkpoint.name} on {self.name}, {self.dtype}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A loaded model has no pickled form.

        Raises:
            InvalidOption: always; with the call that loads it in the other process.
        """
        place = str(self.checkpoint.directory)
        raise InvalidOption(
            "a loaded model cannot be pickled or copied",
            fix=f"load it in each process: ume_core.load({place!r}, engine={self.name!r})",
        )

    def _disc(self, prepared: Prepared) -> Outputs:
        """Windows of prepared items, each cut into batches of like length."""
        window: list[tuple[int, RenderedPrompt]] = []
        held = 0
        for index, item in prepared:
            if isinstance(item, UmeError):
                yield index, item
                continue
            window.append((index, item))
            held += _bytes(item)
            if len(window) >= _WINDOW or held >= _WINDOW_BYTES:
                yield from self._window(window)
                window, held = [], 0
        yield from self._window(window)

    def _gen(self, prepared: Prepared, budget: int, sampling: Sampling | None) -> Outputs:
        bad: list[tuple[int, UmeError]] = []

        def requests() -> Iterator[GenRequest]:
            for index, item in prepared:
                if isinstance(item, UmeError):
                    bad.append((index, item))
                else:
                    yield GenRequest(index, item, budget, sampling)

        samples = sampling.n if sampling is not None else 1
        with closing(self.decoding(requests(), samples=samples)) as decoding:
            while not decoding.finished:
                yield from decoding.advance()
                yield from bad
                bad.clear()
        yield from bad

    def _window(self, window: list[tuple[int, RenderedPrompt]]) -> Outputs:
        waiting = sorted(window, key=lambda e: (e[1].prefix_key, len(e[1].ids)))
        while waiting:
            group = [waiting.pop(0)]
            while waiting and self.fits([p for _, p in group], waiting[0][1]):
                group.append(waiting.pop(0))
            vectors = self.disc_vectors([p for _, p in group])
            for (index, prompt), vector in zip(group, vectors, strict=True):
                if isinstance(vector, UmeError):
                    yield index, vector
                else:
                    record = Record("ok", None, len(prompt.ids), warnings=prompt.warnings)
                    yield index, Output(record, vector, [])

    def result(self, outputs: Sequence[Output], mode: Mode, samples: int) -> EmbeddingResult:
        """The outputs of all items, in input order, as one result."""
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

    def budget(self, asked: int | None) -> int:
        """Tokens of gen: as asked, or `Limits.new_tokens`.

        Raises:
            InvalidOption: no whole number from 1.
        """
        budget: object = self.options.limits.new_tokens if asked is None else asked
        if not isinstance(budget, Integral) or int(budget) < 1:
            raise InvalidOption(f"max_new_tokens is {budget!r}", fix="pass a whole number from 1")
        return int(budget)

    def check_room(self, rendered: RenderedPrompt, budget: int) -> None:
        """Refuse a prompt that leaves no room for the answer.

        Args:
            rendered: the prompt.
            budget: tokens to generate; 0 in disc mode.

        Raises:
            LimitExceeded: prompt and answer exceed the model's context.
        """
        context = self.checkpoint.context_length
        if budget and self.options.thinking != "full":
            budget += _GIVEN_TOKENS
        if len(rendered.ids) + budget + 1 > context:
            raise LimitExceeded(
                f"the prompt's {len(rendered.ids):,} tokens and {budget:,} new ones exceed the "
                f"model's context of {context:,}",
                fix="shorten the item or lower max_new_tokens",
            )


def unit(states: Vectors) -> Vectors:
    """(rows, dim) L2-normalised.

    Raises:
        CheckpointError: the model produced NaN or infinity.
    """
    norms = np.linalg.norm(states, axis=-1, keepdims=True)
    vectors = (states / np.maximum(norms, 1e-12)).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            "the model produced NaN or infinity", fix="use dtype float32, or another checkpoint"
        )
    return vectors


def _bytes(prepared: RenderedPrompt | UmeError) -> int:
    return prepared.nbytes if isinstance(prepared, RenderedPrompt) else 0


def _thinking(options: LoadOptions) -> str:
    if options.thinking != "short":
        return options.thinking
    if options.thinking_tokens < 1:
        raise InvalidOption(
            f"thinking_tokens is {options.thinking_tokens}", fix="pass a number from 1"
        )
    return f"short-{options.thinking_tokens}"
