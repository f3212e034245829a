"""Options of the vLLM engines alone."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ume_core.errors import InvalidOption


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM computes; none of these changes a vector beyond the dtype's tolerance.

    Attributes:
        tensor_parallel: GPUs that share one copy of the weights.
        data_parallel: copies of the model; each answers its part of the requests.
        gpu_memory: share of a GPU's memory for each of the two instances, gen's and disc's.
        kv_gib: GiB of keys and values of an instance; None lets vLLM decide by `gpu_memory`, or
            takes 1 on a CPU.
        context: most tokens of a prompt and its answer; None takes the model's.
        step_tokens: most tokens that vLLM computes in one step.
        rows: requests that vLLM runs together.
        eager: run without compiling; None does so on a CPU only.
        prefix_caching: keep the keys and values of what prompts begin with.
    """

    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory: float = 0.45
    kv_gib: float | None = None
    context: int | None = None
    step_tokens: int = 16384
    rows: int = 64
    eager: bool | None = None
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "data_parallel", "context", "step_tokens", "rows"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOption(f"{name} is {value}", fix="pass a whole number from 1")
        if not 0 < self.gpu_memory <= 1:
            raise InvalidOption(f"gpu_memory is {self.gpu_memory}", fix="pass a share up to 1")
        if self.kv_gib is not None and self.kv_gib <= 0:
            raise InvalidOption(f"kv_gib is {self.kv_gib}", fix="pass a positive number")


@dataclass(frozen=True)
class ServerOptions:
    """Where a running vLLM is.

    Attributes:
        engine_url: of a `vllm serve MODEL --runner pooling`, without `/v1`.
        generate_url: of a `vllm serve MODEL`, for gen; empty leaves disc alone.
        rows: requests that are on their way together.
        timeout: seconds that one request may take.
    """

    engine_url: str = ""
    generate_url: str = ""
    rows: int = 64
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if not self.engine_url:
            raise InvalidOption(
                "engine_url is not set", fix="pass the URL of a `vllm serve --runner pooling`"
            )
        for name in ("engine_url", "generate_url"):
            url: str = getattr(self, name)
            parts = urlsplit(url)
            if url and (parts.scheme not in ("http", "https") or not parts.hostname):
                raise InvalidOption(f"{name} is {url!r}", fix="pass http://HOST:PORT")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise InvalidOption(
                    f"{name} holds more than a place", fix="set VLLM_API_KEY for the server's key"
                )
        if self.rows < 1:
            raise InvalidOption(f"rows is {self.rows}", fix="pass a whole number from 1")
        if not self.timeout > 0:
            raise InvalidOption(f"timeout is {self.timeout}", fix="pass a positive number")
