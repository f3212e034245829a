"""Options of the SGLang engine alone."""

from __future__ import annotations

from dataclasses import dataclass

from ume_core.errors import InvalidOption


@dataclass(frozen=True)
class SglangOptions:
    """How SGLang computes; none of these changes a vector beyond the dtype's tolerance.

    Attributes:
        tensor_parallel: GPUs that share one copy of the weights.
        data_parallel: copies of the model; each answers its part of the requests.
        gpu_memory: share of a GPU's memory for weights, keys and values; None lets SGLang decide.
        context: most tokens of a prompt and its answer; None takes the model's.
        step_tokens: most tokens of prompts that SGLang computes in one step; None lets it decide.
        rows: requests that run together.
        eager: run without CUDA graphs.
        prefix_caching: keep the keys and values of what prompts begin with.
        deterministic: compute alike whatever runs beside an item; sampling needs it.
    """

    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory: float | None = None
    context: int | None = None
    step_tokens: int | None = None
    rows: int = 64
    eager: bool = False
    prefix_caching: bool = True
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "data_parallel", "context", "step_tokens", "rows"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOption(f"{name} is {value}", fix="pass a whole number from 1")
        if self.gpu_memory is not None and not 0 < self.gpu_memory <= 1:
            raise InvalidOption(f"gpu_memory is {self.gpu_memory}", fix="pass a share up to 1")
