"""Two vLLM instances in this process: one generates, one gives states.

vLLM has one runner an instance, so both modes take two, each with its own copy of the weights and
its own cache; each is made when it is first needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ume_core.embedder import Sampling
from ume_core.errors import EngineUnavailable, InvalidOption, LimitExceeded, UmeError
from ume_qwen.prefilled.decoding import Ticket
from ume_qwen.prefilled.protocol import Generate, Need, Prefill
from ume_qwen.render import RenderedPrompt
from ume_qwen.tokens import SpecialTokens
from ume_vllm.options import VllmOptions

if TYPE_CHECKING:
    from vllm import LLMEngine  # pyright: ignore[reportMissingImports]

# What vLLM would do to its host process otherwise: bind its threads to cores, send usage
# statistics, and log every step. A user's own settings win.
_SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# vLLM's kernels for CPUs have one scratch space a process: two threads in them never return.
_ON_CPU = threading.RLock()


class _Kept:
    """Engines of this process, each kept until all are dropped.

    vLLM's engines in one process share what it sets up for talking between devices, and the first
    that is deleted takes it down for all.
    """

    def __init__(self) -> None:
        self._engines: list[LLMEngine] = []
        self._used = 0

    def add(self, owner: Instance, engine: LLMEngine) -> None:
        """Keep an engine at least as long as its owner."""
        self._engines.append(engine)
        self._used += 1
        weakref.finalize(owner, self._drop)

    def _drop(self) -> None:
        with _ON_CPU:
            self._used -= 1
            if self._used == 0:
                self._engines.clear()


_KEPT = _Kept()


def import_vllm() -> Any:
    """The module.

    Raises:
        EngineUnavailable: it cannot be imported.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:  # a torch it was not built for, say
        raise EngineUnavailable(
            f"vLLM cannot be imported: {error}",
            fix="install it in an environment of its own: see the engine's README",
        ) from error
    return vllm


def device_of_vllm() -> str:
    """`cpu` or `cuda`: a build of vLLM is for one of them."""
    import_vllm()
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    kind = current_platform.device_type
    if kind not in ("cpu", "cuda"):
        raise EngineUnavailable(
            f"this vLLM computes on {kind or 'nothing it finds here'}",
            fix="install a vLLM for CUDA, or for a CPU",
        )
    return str(kind)


class Instance:
    """One vLLM engine. Thread-safe."""

    def __init__(self, directory: Path, dtype: str, runner: str, options: VllmOptions) -> None:
        """Remember how it is made; `submit` makes it.

        Args:
            directory: the checkpoint.
            dtype: `float32`, `bfloat16` or `float16`.
            runner: vLLM's `generate` or `pooling`.
            options: see `VllmOptions`.
        """
        self._directory, self._dtype, self._runner = directory, dtype, runner
        self._options = options
        self._engine: LLMEngine | None = None
        self._lock = _ON_CPU if device_of_vllm() == "cpu" else threading.RLock()
        self._numbers = count()
        self._tickets: dict[str, Ticket] = {}
        self._names: dict[Ticket, str] = {}

    def submit(self, prompt: RenderedPrompt, more: Sequence[int], params: Any) -> Ticket:
        """Hand a request over; what vLLM refuses is its ticket's error."""
        ticket = Ticket()
        with self._lock:
            engine = self._loaded()
            from ume_vllm.inputs import engine_input

            name = f"ume-{next(self._numbers)}"
            try:
                engine.add_request(name, engine_input(prompt, more), params)
            except _refusals() as error:
                refusal = LimitExceeded(
                    f"vLLM refuses the item's prompt: {error}",
                    fix="shorten the item, or raise the engine's options context and step_tokens",
                )
                return Ticket(done=True, error=refusal)
            self._tickets[name], self._names[ticket] = ticket, name
        return ticket

    def advance(self, tickets: Sequence[Ticket]) -> None:
        """One step, unless another thread's has finished one of the tickets."""
        with self._lock:
            mine = [t for t in tickets if t in self._names]
            if not mine or (len(mine) < len(tickets) and any(t.done for t in tickets)):
                return
            try:
                outputs = self._loaded().step()
            except Exception as error:
                raise EngineUnavailable(
                    f"vLLM failed: {type(error).__name__}: {error}",
                    fix="load the model again; vLLM's own log says more",
                ) from error
            for output in outputs:
                self._take(output)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Forget requests."""
        with self._lock:
            names = [self._names.pop(t) for t in tickets if t in self._names]
            for name in names:
                del self._tickets[name]
            if names:
                self._loaded().abort_request(names)

    def _take(self, output: Any) -> None:
        ticket = self._tickets.get(output.request_id)
        if ticket is None:
            return
        if hasattr(output.outputs, "data"):
            ticket.state = np.asarray(output.outputs.data.float().cpu(), dtype=np.float32)
        else:
            ticket.ids = list(output.outputs[0].token_ids)
        if output.finished:
            ticket.done = True
            del self._tickets[output.request_id], self._names[ticket]

    def _loaded(self) -> LLMEngine:
        if self._engine is None:
            self._engine = self._load()
            _KEPT.add(self, self._engine)
        return self._engine

    def _load(self) -> LLMEngine:
        vllm = import_vllm()
        own, cpu = self._options, device_of_vllm() == "cpu"
        kv = own.kv_gib if own.kv_gib is not None or not cpu else 1.0
        more: dict[str, Any] = {}
        if self._runner == "pooling":
            from vllm.config import PoolerConfig  # pyright: ignore[reportMissingImports]

            # The last token's state as it is; `ume_qwen.embedder.unit` normalises.
            more["pooler_config"] = PoolerConfig(
                task="embed", pooling_type="LAST", use_activation=False
            )
        arguments = vllm.EngineArgs(
            model=str(self._directory), runner=self._runner, dtype=self._dtype,
            load_format="safetensors", generation_config="vllm", trust_remote_code=False,
            tensor_parallel_size=own.tensor_parallel, data_parallel_size=own.data_parallel,
            gpu_memory_utilization=own.gpu_memory, max_model_len=own.context,
            kv_cache_memory_bytes=None if kv is None else int(kv * 2**30),
            max_num_batched_tokens=own.step_tokens, max_num_seqs=own.rows,
            enforce_eager=cpu if own.eager is None else own.eager,
            enable_prefix_caching=own.prefix_caching,
            # Pixels come normalised and once: no second arithmetic, no cache of what was seen.
            mm_device_do_normalize=False, mm_processor_cache_gb=0, skip_mm_profiling=cpu,
            disable_log_stats=True, **more,
        )  # fmt: skip
        usual = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
        # One process where one suffices: a second would import everything again.
        alone = cpu and own.tensor_parallel == own.data_parallel == 1
        try:
            if usual is None:
                os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if alone else "1"
            return vllm.LLMEngine.from_engine_args(arguments)
        except UmeError:
            raise
        except Exception as error:  # whatever vLLM's many parts raise
            raise EngineUnavailable(
                f"vLLM does not load {self._directory}: {type(error).__name__}: {error}",
                fix="vLLM's own log says more; ume-torch loads the same checkpoint",
            ) from error
        finally:
            if usual is None:
                del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]


class Local:
    """Both instances; see `ume_qwen.prefilled.decoding.Backend`."""

    def __init__(
        self, directory: Path, dtype: str, special: SpecialTokens, options: VllmOptions
    ) -> None:
        self._special = special
        self._generate = Instance(directory, dtype, "generate", options)
        self._states = Instance(directory, dtype, "pooling", options)

    def submit(
        self, prompt: RenderedPrompt, need: Need, sampling: Sampling | None, seed: int, live: bool
    ) -> Ticket:
        """See `Backend`; vLLM's tokens come one by one."""
        del live
        if isinstance(need, Prefill):
            from vllm import PoolingParams  # pyright: ignore[reportMissingImports]

            return self._states.submit(prompt, need.ids, PoolingParams(task="embed"))
        try:
            params = self._params(need, sampling, seed)
        except _refusals() as error:
            refusal = InvalidOption(
                f"vLLM refuses the sampling: {error}", fix="use values that it takes"
            )
            return Ticket(done=True, error=refusal)
        return self._generate.submit(prompt, need.ids, params)

    def advance(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`: a step of each that has something to do."""
        self._generate.advance(tickets)
        self._states.advance(tickets)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`."""
        self._generate.cancel(tickets)
        self._states.cancel(tickets)

    def _params(self, need: Generate, sampling: Sampling | None, seed: int) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        special = self._special
        chosen: dict[str, Any] = {"temperature": 0.0}
        if sampling is not None:
            chosen = {
                "temperature": sampling.temperature, "top_p": sampling.top_p,
                "top_k": sampling.top_k, "seed": seed,
            }  # fmt: skip
        return SamplingParams(
            max_tokens=need.budget, stop_token_ids=[special.gen, special.end, special.pad],
            ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.CUMULATIVE, **chosen,
        )  # fmt: skip


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it does not take."""
    from vllm.exceptions import VLLMValidationError  # pyright: ignore[reportMissingImports]

    return (VLLMValidationError, ValueError)


def check_parallel(options: VllmOptions, device: str) -> None:
    """Refuse copies on a CPU.

    Raises:
        InvalidOption: `tensor_parallel` or `data_parallel` without GPUs.
    """
    if device == "cpu" and options.tensor_parallel * options.data_parallel > 1:
        raise InvalidOption(
            "tensor_parallel and data_parallel spread a model over GPUs, and this vLLM has none",
            fix="leave them out",
        )
