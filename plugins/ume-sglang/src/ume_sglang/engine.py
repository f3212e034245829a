"""The engine: our preparation, SGLang's arithmetic."""

from __future__ import annotations

from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.forks import call_in_progress
from ume_core.options import LoadOptions
from ume_qwen.prefilled.embedder import PrefilledEmbedder, chosen_dtype, find_whole
from ume_sglang.local import Local, Make
from ume_sglang.options import SglangOptions


class SglangEmbedder(PrefilledEmbedder):
    """A checkpoint on SGLang. Thread-safe."""

    name = "sglang"
    uses_gpu = True

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        engine_options: SglangOptions | None = None,
        *,
        make: Make | None = None,
    ) -> None:
        """Check a checkpoint; SGLang loads it at the first call.

        Args:
            model: the directory or hub id.
            options: how every engine loads it.
            engine_options: how this engine computes.
            make: makes what stands in for `sglang.Engine`, of its arguments; for tests.

        Raises:
            CheckpointError: it is not a usable checkpoint.
            InvalidOption: the device or dtype cannot be had here.
        """
        options, own = options or LoadOptions(), engine_options or SglangOptions()
        if options.device not in ("auto", "cuda"):
            raise InvalidOption(
                f"device is {options.device!r}, and SGLang computes on GPUs",
                fix="use device='cuda', or engine='torch'; CUDA_VISIBLE_DEVICES chooses among GPUs",
            )
        with call_in_progress():
            checkpoint = find_whole(model, options, self.name)
            dtype = chosen_dtype(options.dtype, "cuda")
            super().__init__(checkpoint, options, dtype=dtype, weights=checkpoint.digest())
        self.rows = own.rows
        special = self.prepare.tokenizer.special
        self.backend = Local(checkpoint.base, dtype, special, own, make)


def create(
    model: str | Path, options: LoadOptions, engine_options: SglangOptions
) -> SglangEmbedder:
    """The factory `ume_backends` names."""
    return SglangEmbedder(model, options, engine_options)
