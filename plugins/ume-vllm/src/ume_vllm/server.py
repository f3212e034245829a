"""A running `vllm serve` as the backend: one that pools for states, one that generates for answers.

A server has one runner, so gen takes two; they may stand on different machines. Both tokenize and
resize for themselves, so requests are conversations that come out as our own ids and pixels, and
whatever comes back is held against those ids.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import urllib3

from ume_core.embedder import Sampling
from ume_core.errors import (
    CheckpointError,
    EngineUnavailable,
    InvalidItem,
    LimitExceeded,
    UmeError,
)
from ume_core.results import Vectors
from ume_qwen.prefilled.decoding import Ticket
from ume_qwen.prefilled.protocol import Generate, Need, Prefill
from ume_qwen.prepare import Preparer
from ume_qwen.render import RenderedPrompt
from ume_vllm.messages import Conversation, conversation
from ume_vllm.options import ServerOptions

KEY = "VLLM_API_KEY"  # as `vllm serve` reads it
# Pictures come in their final size, and with these bounds the server leaves it so: 28 x 28 is the
# least that a picture can have, and the most is Qwen2-VL's own.
MM_KWARGS = '{"min_pixels": 784, "max_pixels": 12845056}'
_MOST_BYTES = 64 * 2**20  # of an answer; a vector of the 7B takes 20 kB


class Server:
    """One `vllm serve`. Thread-safe."""

    def __init__(self, url: str, options: ServerOptions, dimensions: int | None) -> None:
        """Ask for the model's name at the first request.

        Args:
            url: up to and without `/v1`.
            options: see `ServerOptions`.
            dimensions: length of the vectors it must give; None where it generates.
        """
        self.url = url.rstrip("/")
        self._dimensions = dimensions
        key = os.environ.get(KEY)
        self._pool = urllib3.PoolManager(
            maxsize=options.rows, retries=False,
            timeout=urllib3.Timeout(connect=10, read=options.timeout),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )  # fmt: skip
        self._name: str | None = None
        self._lock = threading.Lock()

    def state(self, asked: Conversation, tokens: int) -> Vectors:
        """The last token's state (dim,) of a conversation of so many tokens."""
        body = {
            **asked.request(), "task": "embed", "use_activation": False,
            "encoding_format": "base64",
        }  # fmt: skip
        found = self._post("/pooling", body)
        try:
            count = int(found["usage"]["prompt_tokens"])
            raw = base64.b64decode(found["data"][0]["data"], validate=True)
            state = np.frombuffer(raw, dtype="<f4").astype(np.float32)
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
            raise self._odd("/pooling", error) from error
        self._check_count(count, tokens, asked)
        if state.shape != (self._dimensions,):
            raise CheckpointError(
                f"{self.url} serves a model whose vectors have {state.size:,} numbers, not "
                f"{self._dimensions:,}",
                fix="serve the checkpoint that is loaded here, with --runner pooling",
            )
        return state

    def tokens(
        self, asked: Conversation, need: Generate, sampling: Sampling | None, seed: int,
        stops: Sequence[int], banned: Sequence[int], prompt: list[int],
    ) -> list[int]:  # fmt: skip
        """Token ids of one answer, the one that stops it included."""
        body: dict[str, Any] = {
            **asked.request(), "max_completion_tokens": need.budget, "n": 1,
            "stop_token_ids": list(stops), "ignore_eos": True, "return_token_ids": True,
            "logit_bias": {str(token): -100 for token in banned}, "temperature": 0.0,
            # What the checkpoint's generation_config.json says is not asked for.
            "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        }  # fmt: skip
        if sampling is not None:
            body |= {
                "temperature": sampling.temperature, "top_p": sampling.top_p,
                "top_k": sampling.top_k, "seed": seed,
            }  # fmt: skip
        found = self._post("/v1/chat/completions", body)
        try:
            ids = [int(i) for i in found["choices"][0]["token_ids"]]
            read = [int(i) for i in found["prompt_token_ids"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._odd("/v1/chat/completions", error) from error
        self._check_count(len(read), len(prompt), asked)
        if asked.read_alike and read != prompt:
            raise self._other_prompt()
        return ids

    def _check_count(self, found: int, wanted: int, asked: Conversation) -> None:
        if found != wanted and asked.read_alike:
            raise self._other_prompt()

    def _other_prompt(self) -> UmeError:
        return CheckpointError(
            f"{self.url} reads an item as other tokens than the checkpoint that is loaded here",
            fix="serve that checkpoint, with its own chat template and "
            f"--mm-processor-kwargs '{MM_KWARGS}'",
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._json("POST", path, {"model": self._model(), **body})

    def _model(self) -> str:
        with self._lock:
            if self._name is None:
                found = self._json("GET", "/v1/models", None)
                try:
                    self._name = str(found["data"][0]["id"])
                except (KeyError, IndexError, TypeError) as error:
                    raise self._odd("/v1/models", error) from error
            return self._name

    def _json(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            answer = self._pool.request(
                method, self.url + path, json=body, redirect=False, preload_content=False
            )
            try:
                data = answer.read(_MOST_BYTES + 1)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise EngineUnavailable(
                f"{self.url} does not answer: {type(error).__name__}",
                fix="start it (see the engine's README), or correct the URL",
            ) from error
        if len(data) > _MOST_BYTES:
            raise self._odd(path, ValueError("it is too long"))
        if answer.status >= 300:
            raise self._refusal(path, answer.status, data)
        try:
            found = json.loads(data)
        except ValueError as error:
            raise self._odd(path, error) from error
        if not isinstance(found, dict):
            raise self._odd(path, TypeError("it is no object"))
        return cast("dict[str, Any]", found)

    def _refusal(self, path: str, status: int, data: bytes) -> UmeError:
        said = _message(data)
        if status in (401, 403):
            return EngineUnavailable(
                f"{self.url} refuses the key", fix=f"set {KEY} to the key that the server takes"
            )
        if status == 404:
            return EngineUnavailable(
                f"{self.url} has no {path}",
                fix="name a `vllm serve` with `--runner pooling` as engine_url, and one that "
                "generates as generate_url",
            )
        if status in (400, 413, 422):
            return LimitExceeded(
                f"vLLM refuses the item: {said}",
                fix="shorten the item, or raise the server's --max-model-len",
            )
        return EngineUnavailable(
            f"{self.url} fails with status {status}: {said}", fix="see the server's log"
        )

    def _odd(self, path: str, error: Exception) -> UmeError:
        return EngineUnavailable(
            f"{self.url}{path} gives an answer that vLLM does not give ({error})",
            fix="name a `vllm serve` of vLLM 0.32 or newer",
        )


def _message(data: bytes) -> str:
    try:
        found = json.loads(data)
        return str(found["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return repr(data[:200])


class Served:
    """Both servers; see `ume_qwen.prefilled.decoding.Backend`."""

    def __init__(self, prepare: Preparer, options: ServerOptions, dimensions: int) -> None:
        """Connect to nothing yet.

        Args:
            prepare: whose prompts come.
            options: where the servers are.
            dimensions: of a vector.
        """
        self._prepare = prepare
        self._states = Server(options.engine_url, options, dimensions)
        self._answers = Server(options.generate_url, options, None)
        self._threads = ThreadPoolExecutor(options.rows, "ume-vllm")
        self._done = threading.Condition()
        self._futures: dict[Ticket, Future[None]] = {}

    def submit(
        self, prompt: RenderedPrompt, need: Need, sampling: Sampling | None, seed: int, live: bool
    ) -> Ticket:
        """See `Backend`; an answer's tokens come together, when it is done."""
        del live
        ticket = Ticket()

        def run() -> None:
            try:
                self._ask(ticket, prompt, need, sampling, seed)
            except UmeError as error:
                ticket.error = error
            except Exception as error:  # a thread's would be lost
                ticket.error = EngineUnavailable(
                    f"the request failed: {type(error).__name__}: {error}",
                    fix="report it, with the item",
                )
            with self._done:
                ticket.done = True
                self._futures.pop(ticket, None)
                self._done.notify_all()

        with self._done:  # `run` must not end before it is known
            self._futures[ticket] = self._threads.submit(run)
        return ticket

    def advance(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`."""
        with self._done:
            self._done.wait_for(lambda: any(t.done for t in tickets))

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """See `Backend`: what has been sent is computed, and its answer thrown away."""
        with self._done:
            futures = [self._futures.pop(t) for t in tickets if t in self._futures]
        for future in futures:
            future.cancel()

    def _ask(
        self, ticket: Ticket, prompt: RenderedPrompt, need: Need, sampling: Sampling | None,
        seed: int,
    ) -> None:  # fmt: skip
        tokenizer = self._prepare.tokenizer
        asked = conversation(prompt, need.ids, tokenizer, self._prepare.patchify)
        if not asked.prompt_alike:
            raise InvalidItem(
                "its text spells a special token, which vLLM's server takes for one",
                fix="use engine='vllm', in this process, for texts of users",
            )
        if isinstance(need, Prefill):
            ticket.state = self._states.state(asked, len(prompt.ids) + len(need.ids))
        else:
            special = tokenizer.special
            ticket.ids = self._answers.tokens(
                asked, need, sampling, seed, (special.gen, special.end, special.pad),
                (special.image, special.video), [*prompt.ids.tolist(), *need.ids],
            )  # fmt: skip
        if not asked.read_alike:
            ticket.warning = "vLLM's server read the answer's text as other tokens of equal text"
