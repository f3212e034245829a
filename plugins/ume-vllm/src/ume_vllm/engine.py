"""The engine: our preparation, vLLM's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ume_core.errors import CheckpointError, InvalidOption, UmeError
from ume_core.forks import call_in_progress
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_core.signature import Mode
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.decoding import GenRequest
from ume_qwen.embedder import QwenEmbedder, unit
from ume_qwen.render import RenderedPrompt
from ume_vllm.decoding import Backend, VllmDecoding
from ume_vllm.local import Local, check_parallel, device_of_vllm
from ume_vllm.options import ServerOptions, VllmOptions
from ume_vllm.protocol import Prefill
from ume_vllm.server import Served

_ALL_MODES: frozenset[Mode] = frozenset({"disc", "gen", "both"})
_DISC: frozenset[Mode] = frozenset({"disc"})
_DTYPES = ("float32", "bfloat16", "float16")


class _OnVllm(QwenEmbedder):
    """Disc and answers through a backend."""

    modes = _ALL_MODES
    backend: Backend
    _rows: int

    def fits(self, group: Sequence[RenderedPrompt], more: RenderedPrompt) -> bool:
        """Always: vLLM forms its own batches."""
        del group, more
        return True

    def disc_vectors(self, prompts: Sequence[RenderedPrompt]) -> list[Vectors | UmeError]:
        """States of the prompts' last tokens, which are `<disc_emb>`."""
        tickets = [self.backend.submit(p, Prefill(()), None, 0) for p in prompts]
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

    def decoding(self, requests: Iterator[GenRequest | None], *, samples: int = 1) -> VllmDecoding:
        """Answers that run together; see `QwenEmbedder.decoding`."""
        del samples  # a request starts whole, whatever its number
        return VllmDecoding(requests, self.backend, self.prepare, self._rows)


class VllmEmbedder(_OnVllm):
    """A checkpoint on vLLM. Thread-safe.

    Attributes:
        device: `cpu` or `cuda`.
        backend: what computes.
    """

    name = "vllm"

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        engine_options: VllmOptions | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        """Check a checkpoint; vLLM loads it at the first call.

        Args:
            model: the directory or hub id.
            options: how every engine loads it.
            engine_options: how this engine computes.
            backend: what computes in vLLM's place; for tests.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: the device or dtype cannot be had here.
            EngineUnavailable: vLLM cannot be imported.
        """
        options, own = options or LoadOptions(), engine_options or VllmOptions()
        with call_in_progress():
            checkpoint = find_checkpoint(model, name=options.name)
            if checkpoint.adapter is not None:
                raise CheckpointError(
                    f"{checkpoint.directory} is an adapter, and the vllm engine loads whole models",
                    fix="merge it with peft (merge_and_unload, save_pretrained), or use "
                    "engine='torch', which merges it",
                )
            self.device = device_of_vllm() if backend is None else "cpu"
            _check_device(options.device, self.device)
            check_parallel(own, self.device)
            dtype = _dtype(options.dtype, self.device)
            super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        self.uses_gpu = self.device == "cuda"
        self._rows = own.rows
        special = self.prepare.tokenizer.special
        self.backend: Backend = backend or Local(checkpoint.base, dtype, special, own)


class VllmServerEmbedder(_OnVllm):
    """A checkpoint that running vLLM servers hold. Thread-safe.

    The checkpoint's files are needed here too: prompts are made, and signatures told, from them.

    Attributes:
        backend: the servers.
    """

    name = "vllm-server"

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        engine_options: ServerOptions | None = None,
    ) -> None:
        """Check a checkpoint; nothing is sent before the first call.

        Args:
            model: the directory or hub id of what the servers serve.
            options: how every engine loads it; `dtype` is the servers'.
            engine_options: where the servers are.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: no server is named, or the dtype is not one.
        """
        options, own = options or LoadOptions(), engine_options or ServerOptions()
        checkpoint = find_checkpoint(model, name=options.name)
        if options.dtype == "auto":
            raise InvalidOption(
                "a server does not say the dtype it computes in, and signatures hold it",
                fix=f"pass the server's --dtype as dtype: one of {', '.join(_DTYPES)}",
            )
        dtype = _dtype(options.dtype, "")
        super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        if not own.generate_url:
            self.modes = _DISC
        self._rows = own.rows
        self.backend = Served(self.prepare, own, checkpoint.hidden_size)


def create(model: str | Path, options: LoadOptions, engine_options: VllmOptions) -> VllmEmbedder:
    """The factory `ume_backends` names."""
    return VllmEmbedder(model, options, engine_options)


def create_served(
    model: str | Path, options: LoadOptions, engine_options: ServerOptions
) -> VllmServerEmbedder:
    """The factory `ume_backends` names."""
    return VllmServerEmbedder(model, options, engine_options)


def _check_device(asked: str, have: str) -> None:
    if asked not in ("auto", have):
        raise InvalidOption(
            f"device is {asked!r}, and the installed vLLM computes on {have}",
            fix=f"use device={have!r}; CUDA_VISIBLE_DEVICES chooses among GPUs",
        )


def _dtype(asked: str, device: str) -> str:
    if asked == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    if asked not in _DTYPES:
        raise InvalidOption(f"unknown dtype {asked!r}", fix=f"use one of: {', '.join(_DTYPES)}")
    return asked
