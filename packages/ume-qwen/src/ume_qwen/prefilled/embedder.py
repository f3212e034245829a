"""Base of the engines that generate, then prefill exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ume_core.errors import CheckpointError, InvalidOption, UmeError
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_core.signature import Mode
from ume_qwen.checkpoint import Checkpoint, find_checkpoint
from ume_qwen.decoding import GenRequest
from ume_qwen.embedder import QwenEmbedder, unit
from ume_qwen.prefilled.decoding import Backend, PrefilledDecoding
from ume_qwen.prefilled.protocol import Prefill
from ume_qwen.render import RenderedPrompt

_DTYPES = ("float32", "bfloat16", "float16")


class PrefilledEmbedder(QwenEmbedder):
    """A checkpoint on such an engine; a subclass brings the backend.

    Attributes:
        backend: what computes.
        rows: answers that run together.
    """

    modes: frozenset[Mode] = frozenset({"disc", "gen", "both"})
    backend: Backend
    rows: int

    def fits(self, group: Sequence[RenderedPrompt], more: RenderedPrompt) -> bool:
        """Always: the engine forms its own batches."""
        del group, more
        return True

    def disc_vectors(self, prompts: Sequence[RenderedPrompt]) -> list[Vectors | UmeError]:
        """States of the prompts' last tokens, which are `<disc_emb>`."""
        tickets = [self.backend.submit(p, Prefill(()), None, 0, False) for p in prompts]
        try:
            while waiting := [t for t in tickets if not t.done]:
                self.backend.advance(waiting)
        finally:
            self.backend.cancel([t for t in tickets if not t.done])
        found: list[Vectors | UmeError] = []
        for ticket in tickets:
            try:
                if ticket.error is not None:
                    raise ticket.error
                assert ticket.state is not None
                found.append(unit(ticket.state[None])[0])
            except UmeError as error:  # NaN, or refused: this item's own failure
                found.append(error)
        return found

    def decoding(
        self, requests: Iterator[GenRequest | None], *, samples: int = 1
    ) -> PrefilledDecoding:
        """Answers that run together; see `QwenEmbedder.decoding`."""
        del samples  # a request starts whole, whatever its number
        return PrefilledDecoding(requests, self.backend, self.prepare, self.rows)


def find_whole(model: str | Path, options: LoadOptions, engine: str) -> Checkpoint:
    """A checkpoint with all its weights.

    Args:
        model: the directory or hub id.
        options: how it is loaded.
        engine: the engine's name, for messages.

    Raises:
        CheckpointError: it is not usable, or an adapter, which such engines do not merge.
    """
    checkpoint = find_checkpoint(model, name=options.name)
    if checkpoint.adapter is not None:
        raise CheckpointError(
            f"{checkpoint.directory} is an adapter, and the {engine} engine loads whole models",
            fix="merge it with peft (merge_and_unload, save_pretrained), or use "
            "engine='torch', which merges it",
        )
    return checkpoint


def chosen_dtype(asked: str, device: str) -> str:
    """The arithmetic's dtype: bfloat16 on a GPU and float32 on a CPU, unless another is asked for.

    Raises:
        InvalidOption: no such dtype.
    """
    if asked == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    if asked not in _DTYPES:
        raise InvalidOption(f"unknown dtype {asked!r}", fix=f"use one of: {', '.join(_DTYPES)}")
    return asked
