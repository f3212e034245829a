"""SGLang's engine in this process, behind `ume_qwen.prefilled`: no port, no second tokenizer.

The engine is asynchronous: it lives in a thread of its own, whose loop runs one task a request.
What is said of its insides was read in the sources of 0.5.23.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ume_core.embedder import Sampling
from ume_core.errors import EngineUnavailable, InvalidOption, LimitExceeded, UmeError
from ume_qwen.prefilled.decoding import Ticket
from ume_qwen.prefilled.protocol import Generate, Need, Prefill
from ume_qwen.render import RenderedPrompt
from ume_qwen.tokens import SpecialTokens
from ume_sglang.options import SglangOptions

if TYPE_CHECKING:
    from sglang import Engine

    Make = Callable[[Path, str, SglangOptions], Engine]
else:
    Make = Callable

_FIX = "install it in an environment of its own (see the engine's README), or use engine='torch'"
# Added to a token's logit: as good as never, and finite in every dtype.
_NEVER = -1e9
# Tokens between two pieces of an answer that nobody reads as it comes: each piece carries a state.
_PIECE = 32
_MOST = 2**31 - 1  # tokens to keep: SGLang's own numbers are 32 bits wide
# Seeds are 63 bits wide.
_SEED = 2**63 - 1


def new_engine(directory: Path, dtype: str, options: SglangOptions) -> Engine:
    """Start SGLang on a checkpoint.

    Args:
        directory: the checkpoint.
        dtype: `float32`, `bfloat16` or `float16`.
        options: see `SglangOptions`.

    Raises:
        EngineUnavailable: SGLang cannot be imported, or does not load the checkpoint.
    """
    try:
        from sglang import Engine
    except (ImportError, OSError, RuntimeError) as error:  # a torch it was not built for, say
        raise EngineUnavailable(f"SGLang cannot be imported: {error}", fix=_FIX) from error
    try:
        return Engine(
            model_path=str(directory),
            dtype=dtype,
            load_format="safetensors",
            trust_remote_code=False,
            skip_tokenizer_init=True,
            return_hidden_states_mode="last",
            enable_deterministic_inference=options.deterministic,
            tp_size=options.tensor_parallel,
            dp_size=options.data_parallel,
            mem_fraction_static=options.gpu_memory,
            context_length=options.context,
            chunked_prefill_size=options.step_tokens,
            max_running_requests=options.rows,
            disable_cuda_graph=options.eager,
            disable_radix_cache=not options.prefix_caching,
            log_level="error",
        )
    except Exception as error:  # whatever SGLang's many parts raise
        raise EngineUnavailable(
            f"SGLang does not load {directory}: {type(error).__name__}: {error}",
            fix="SGLang's own log says more; engine='torch' loads the same checkpoint",
        ) from error


class Local:
    """One engine for states and tokens; see `ume_qwen.prefilled.decoding.Backend`."""

    def __init__(
        self,
        directory: Path,
        dtype: str,
        special: SpecialTokens,
        options: SglangOptions,
        make: Make | None = None,
    ) -> None:
        """Remember how the engine is made; the first request makes it.

        Args:
            directory: the checkpoint.
            dtype: `float32`, `bfloat16` or `float16`.
            special: the checkpoint's tokens.
            options: see `SglangOptions`.
            make: what makes it in `new_engine`'s place.
        """
        self._directory, self._dtype, self._options = directory, dtype, options
        self._special, self._make = special, make or new_engine
        self._loading = threading.Lock()
        self._started: tuple[Engine, asyncio.AbstractEventLoop] | None = None
        self._changed = threading.Condition()
        self._running: dict[Ticket, Future[None]] = {}
        self._news: set[Ticket] = set()

    def submit(
        self, prompt: RenderedPrompt, need: Need, sampling: Sampling | None, seed: int, live: bool
    ) -> Ticket:
        """See `Backend`."""
        if sampling is not None and not self._options.deterministic:
            refusal = InvalidOption(
                "SGLang keeps to seeds only where it computes deterministically",
                fix="load the engine with deterministic=True, or leave sampling out",
            )
            return Ticket(done=True, error=refusal)
        engine, loop = self._loaded()
        ticket = Ticket()
        task = self._answer(engine, ticket, prompt, need, sampling, seed, live)
        with self._changed:
            self._running[ticket] = asyncio.run_coroutine_threadsafe(task, loop)
        return ticket

    def advance(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`."""
        with self._changed:
            self._changed.wait_for(lambda: any(t.done or t in self._news for t in tickets))
            self._news.difference_update(tickets)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`."""
        with self._changed:
            running = [self._running.pop(t) for t in tickets if t in self._running]
            self._news.difference_update(tickets)
        for task in running:
            task.cancel()

    def _loaded(self) -> tuple[Engine, asyncio.AbstractEventLoop]:
        with self._loading:
            if self._started is None:
                begun: Future[tuple[Engine, asyncio.AbstractEventLoop]] = Future()
                made = (self._make, self._directory, self._dtype, self._options, begun)
                thread = threading.Thread(target=_serve, args=made, name="sglang", daemon=True)
                thread.start()
                self._started = begun.result()
                weakref.finalize(self, _stop, self._started[1], thread)
            return self._started

    async def _answer(
        self,
        engine: Engine,
        ticket: Ticket,
        prompt: RenderedPrompt,
        need: Need,
        sampling: Sampling | None,
        seed: int,
        live: bool,
    ) -> None:
        """Follow one request to its end; what SGLang refuses is its ticket's error."""
        from ume_sglang.inputs import engine_input  # torch is SGLang's, so it is here

        special = self._special
        chosen = sampling or Sampling()
        try:
            pieces = await engine.async_generate(
                **engine_input(prompt, need.ids),
                sampling_params={
                    # One more than the answer may have: it feeds a last `<gen_emb>`.
                    "max_new_tokens": need.budget + 1 if isinstance(need, Generate) else 0,
                    # `ignore_eos` would take these away, too.
                    "stop_token_ids": {special.end, special.pad},
                    "temperature": chosen.temperature if sampling is not None else 0.0,
                    "top_p": chosen.top_p,
                    "top_k": min(chosen.top_k, _MOST) or -1,
                    "sampling_seed": seed & _SEED,
                    # A placeholder would need pixels that are not there.
                    "logit_bias": {str(special.image): _NEVER, str(special.video): _NEVER},
                    "stream_interval": 1 if live else _PIECE,
                },
                return_hidden_states="last",
                stream=True,
            )
            assert isinstance(pieces, AsyncGenerator)  # as it streams
            # Closed, it makes SGLang abandon what still runs.
            async with aclosing(pieces):
                async for piece in pieces:
                    if self._take(ticket, need, piece):
                        break
            if isinstance(need, Prefill) and ticket.state is None:
                raise EngineUnavailable("SGLang returned no state", fix="see SGLang's own log")
        except ValueError as error:  # raised by what checks a request
            ticket.error = _refused(error)
        except UmeError as error:
            ticket.error = error
        except Exception as error:
            ticket.error = EngineUnavailable(
                f"SGLang failed: {type(error).__name__}: {error}",
                fix="load the model again; SGLang's own log says more",
            )
        finally:
            with self._changed:
                ticket.done = True
                self._running.pop(ticket, None)
                self._news.discard(ticket)
                self._changed.notify_all()

    def _take(self, ticket: Ticket, need: Need, piece: dict[str, Any]) -> bool:
        """What came so far; whether that is all that is wanted."""
        meta = piece["meta_info"]
        reason = meta["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            raise _refused(reason.get("message"))
        # Of a piece that is not the last, more tokens may be there than its state knows of.
        state = None if reason is None else meta.get("hidden_states")
        if isinstance(need, Generate):
            ids = list(piece["output_ids"])
            with self._changed:
                ticket.ids = ids
                self._news.add(ticket)
                self._changed.notify_all()
            gen = self._special.gen
            if reason is None:
                return gen in ids and len(ids) > ids.index(gen) + 2  # its state is gone
        if state is not None:
            ticket.state = np.asarray(state, dtype=np.float32)
        return reason is not None


def _serve(
    make: Make,
    directory: Path,
    dtype: str,
    options: SglangOptions,
    begun: Future[tuple[Engine, asyncio.AbstractEventLoop]],
) -> None:
    """The engine's thread: outside the main one SGLang leaves the process's signals alone."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # where the engine looks for one
    try:
        begun.set_result((make(directory, dtype, options), loop))
    except BaseException as error:
        begun.set_exception(error)
        loop.close()
        return
    loop.run_forever()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():  # where the garbage collector may call this
        thread.join(5)


def _refused(said: object) -> LimitExceeded:
    return LimitExceeded(
        f"SGLang refuses the item's prompt: {said}",
        fix="shorten the item, or raise the engine's option context",
    )
