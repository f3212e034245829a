"""A stand-in for `sglang.Engine` that computes with transformers under SGLang's rules.

The rules are those of SGLang 0.5.23's sources: a request's state is that of the last token it was
fed, overwritten at each step (`_append_decode_hidden_states`); the token that ends a request is
among its ids and never fed; stop tokens end it, then `max_new_tokens`, of which 0 ends it at the
prompt (`update_finish_state`); draws depend on seed and position; a piece of a stream holds all
ids so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

import ume_nano

_PIXELS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


class Run:
    """One sequence on the model, with its keys and values."""

    def __init__(self, model: Any, prompt: list[int], data: dict[str, Any]) -> None:
        self._model = model
        self._pixels = {name: data[name] for name in _PIXELS if name in data}
        positions = torch.arange(len(prompt)).expand(3, -1)
        self._positions = data.get("mrope_positions", positions)
        self._delta = int(data.get("mrope_position_delta", torch.zeros(1, 1)))
        self._cache: Any = None
        self._fed = 0

    @torch.inference_mode()
    def fed(self, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last one's state and logits, when all of these have been fed."""
        begin, given = self._fed, self._positions.shape[1]
        behind = (torch.arange(given, len(ids)) + self._delta).expand(3, -1)
        positions = torch.cat([self._positions, behind], dim=1)[:, begin:]
        out = self._model.model(
            input_ids=torch.tensor([ids[begin:]]), position_ids=positions[:, None],
            use_cache=True, past_key_values=self._cache, **({} if begin else self._pixels),
        )  # fmt: skip
        self._cache, self._fed = out.past_key_values, len(ids)
        state = out.last_hidden_state[0, -1]
        return state, self._model.lm_head(state)


class FakeEngine:
    """One model; `script`, if given, says what is written instead, by prompt and tokens so far."""

    def __init__(
        self,
        directory: Path,
        script: Callable[[list[int], list[int]], int] | None = None,
        context: int = 4096,
    ) -> None:
        self.model: Any = Qwen2VLForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32
        ).eval()
        self.script, self.context = script, context
        self._known: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}  # by media and what was fed
        self.requests: list[dict[str, Any]] = []
        self.open = 0
        self.steps = 0

    def run(self, ids: list[int], data: dict[str, Any]) -> torch.Tensor:
        """The state of the last of these."""
        return Run(self.model, ids, data).fed(ids)[0]

    async def async_generate(self, **arguments: Any) -> AsyncGenerator[dict[str, Any], None]:
        assert arguments["stream"] is True and arguments["return_hidden_states"] == "last"
        return self._stream(**arguments)

    async def _stream(
        self,
        *,
        input_ids: list[int],
        image_data: list[dict[str, Any]] | None,
        mm_hashes: list[str] | None,
        sampling_params: dict[str, Any],
        **_: Any,
    ) -> AsyncGenerator[dict[str, Any], None]:
        if len(input_ids) >= self.context:
            raise ValueError(f"The input ({len(input_ids)} tokens) is longer than the model's")
        params = sampling_params
        self.requests.append({"ids": input_ids, "hashes": mm_hashes, **params})
        data = image_data[0] if image_data else {}
        most = params["max_new_tokens"]
        self.open += 1
        try:
            output: list[int] = []
            sent = 0
            run = Run(self.model, input_ids, data)
            while True:
                key = (*(mm_hashes or ()), *input_ids, *output)
                if key not in self._known:
                    self._known[key] = run.fed([*input_ids, *output])
                    self.steps += 1
                state, logits = self._known[key]
                token = self._chosen(logits, len(input_ids) + len(output), params)
                if self.script is not None:
                    token = self.script(input_ids, output)
                output.append(token)
                reason = None
                if token in params["stop_token_ids"]:
                    reason = {"type": "stop", "matched": token}
                elif len(output) >= most:
                    reason = {"type": "length", "length": most}
                if reason or len(output) - sent >= params["stream_interval"] or sent == 0:
                    sent = len(output)
                    await asyncio.sleep(0)
                    meta = {"finish_reason": reason, "hidden_states": state.tolist()}
                    yield {"output_ids": output[:most] if reason else output, "meta_info": meta}
                if reason:
                    return
        finally:
            self.open -= 1

    def _chosen(self, logits: torch.Tensor, place: int, params: dict[str, Any]) -> int:
        logits = logits.clone()
        for token, bias in params["logit_bias"].items():
            logits[int(token)] += bias
        if params["temperature"] == 0:
            return int(logits.argmax())
        generator = torch.Generator().manual_seed((params["sampling_seed"] + place) % 2**63)
        chances = torch.softmax(logits / params["temperature"], -1)
        return int(torch.multinomial(chances, 1, generator=generator))


@pytest.fixture(scope="session")
def engine() -> FakeEngine:
    """ume-nano on it."""
    return FakeEngine(ume_nano.path())
