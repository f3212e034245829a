"""The engine: our preparation, vLLM's arithmetic."""

from __future__ import annotations

from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.forks import call_in_progress
from ume_core.options import LoadOptions
from ume_qwen.prefilled.decoding import Backend
from ume_qwen.prefilled.embedder import PrefilledEmbedder, chosen_dtype, find_whole
from ume_vllm.local import Local, check_parallel, device_of_vllm
from ume_vllm.options import VllmOptions


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


def create(model: str | Path, options: LoadOptions, engine_options: VllmOptions) -> VllmEmbedder:
    """The factory `ume_backends` names."""
    return VllmEmbedder(model, options, engine_options)


def _check_device(asked: str, have: str) -> None:
    if asked not in ("auto", have):
        raise InvalidOption(
            f"device is {asked!r}, and the installed vLLM computes on {have}",
            fix=f"use device={have!r}; CUDA_VISIBLE_DEVICES chooses among GPUs",
        )
