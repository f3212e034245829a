"""Where a stage runs: device, shapes, and the models it needs."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ume_nano
from tools.benchmark.flops import synchronize
from tools.gpu_check.findings import NotRun
from tools.gpu_check.plain import Plain
from ume_core.options import LoadOptions
from ume_qwen.testing.checkpoints import make_checkpoint
from ume_torch.checkpoint import DTYPES
from ume_torch.engine import TorchEmbedder
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels


@dataclass(frozen=True)
class Place:
    """A device, and how large everything is on it.

    Attributes:
        device: a torch device string.
        small: ume-nano's size in float32 instead of the 2B and 7B shapes in bfloat16.
        cache: folder for the checkpoints, kept between stages.
    """

    device: str
    small: bool
    cache: Path

    def require_device(self) -> None:
        """Raise `NotRun` where the device is not there."""
        if not self.available:
            raise NotRun("this machine has no CUDA device")

    @property
    def available(self) -> bool:
        """Whether the device is there."""
        return not self.cuda or torch.cuda.is_available()

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def main(self) -> str:
        """The shape that everything is measured at."""
        return "nano" if self.small else "2b"

    @property
    def second(self) -> str:
        """The shape that the main figures are repeated at."""
        return "qwen2_vl" if self.small else "7b"

    @property
    def dtype(self) -> str:
        """Of the measurements."""
        return "float32" if self.small else "bfloat16"

    def checkpoint(self, shape: str) -> Path:
        """A checkpoint of seeded random weights; of ume-nano, its own.

        Args:
            shape: `2b`, `7b`, `nano`, or an architecture, which stands for a tiny one of it.
        """
        if shape == "nano":
            return ume_nano.path()
        directory = self.cache / shape
        if not (directory / "complete").is_file():
            words = ume_nano.path()
            if shape in ("2b", "7b"):
                make_checkpoint(
                    directory, "qwen2_vl", size=shape, dtype=torch.bfloat16,
                    words=words / "tokenizer.json", device=self.device,
                )  # fmt: skip
            else:
                make_checkpoint(directory, shape, gen_bias=2, vocabulary_of=words)
            (directory / "complete").touch()
        return directory

    def config(self, shape: str) -> Any:
        """A checkpoint's configuration, as transformers has it."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.checkpoint(shape))

    def engine(
        self,
        shape: str,
        own: TorchOptions | None = None,
        *,
        dtype: str | None = None,
        device: str | None = None,
        kernels: Kernels | None = None,
    ) -> TorchEmbedder:
        """Our engine, under the README's conventions: no blank picture before texts."""
        options = LoadOptions(
            conventions="readme", dtype=dtype or self.dtype, device=device or self.device
        )
        return TorchEmbedder(self.checkpoint(shape), options, own, kernels=kernels)

    def plain(self, shape: str, *, dtype: str | None = None, device: str | None = None) -> Plain:
        """The published recipe's model."""
        return Plain(self.checkpoint(shape), DTYPES[dtype or self.dtype], device or self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, the device's work included."""
        synchronize(self.device)
        began = time.perf_counter()
        work()
        synchronize(self.device)
        return time.perf_counter() - began

    def peak(self, work: Callable[[], Any]) -> float:
        """GB held at most during a call: of the GPU's memory, or by the process on a CPU."""
        if not self.cuda:
            work()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 1e9
