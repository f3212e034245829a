"""The engine: our preparation, vLLM's arithmetic."""

from __future__ import annotations

from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.forks import call_in_progress
from ume_core.options import LoadOptions
from ume_qwen.prefilled.decoding import Backend
from ume_qwen.prefilled.embedder import PrefilledEmbedder, chosen_dtype, find_whole
from ume_vllm.local import Local, check_parallel, device_of_vllm
from ume_vllm.options import ServerOptions, VllmOptions
from ume_vllm.server import Served


class VllmEmbedder(PrefilledEmbedder):
    """A checkpoint on vLLM. Thread-safe.

    Attributes:
        device: `cpu` or `cuda`.
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
            checkpoint = find_whole(model, options, self.name)
            self.device = device_of_vllm() if backend is None else "cpu"
            _check_device(options.device, self.device)
            check_parallel(own, self.device)
            dtype = chosen_dtype(options.dtype, self.device)
            super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        self.uses_gpu = self.device == "cuda"
        self.rows = own.rows
        special = self.prepare.tokenizer.special
        self.backend = backend or Local(checkpoint.base, dtype, special, own)


class VllmServerEmbedder(PrefilledEmbedder):
    """A checkpoint that running vLLM servers hold. Thread-safe.

    The checkpoint's files are needed here too: prompts are made, and signatures told, from them.
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
            InvalidOption: no server is named, or no dtype.
        """
        options, own = options or LoadOptions(), engine_options or ServerOptions()
        checkpoint = find_whole(model, options, self.name)
        if options.dtype == "auto":
            raise InvalidOption(
                "a server does not say the dtype it computes in, and signatures hold it",
                fix="pass the server's --dtype as dtype: float32, bfloat16 or float16",
            )
        dtype = chosen_dtype(options.dtype, "")
        super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        if not own.generate_url:
            self.modes = frozenset({"disc"})
        self.rows = own.rows
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
