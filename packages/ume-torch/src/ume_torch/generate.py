"""Batched decoding that keeps one vector per row: the state of its own `<gen_emb>`.

Rules (each a bug of the published code, facts section 4): `<gen_emb>` counts only among generated
tokens; a row ends at its first `<gen_emb>` and leaves the batch; the state is the forward pass *of*
that token, also when it was the last one allowed; a row that ends or runs out without it gets
`<gen_emb>` appended and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ume_core.embedder import Sampling
from ume_torch.forward import Batch
from ume_torch.tokens import SpecialTokens


@dataclass
class Generation:
    """One row's outcome.

    Attributes:
        ids: generated tokens, `<gen_emb>` included. forced: why `<gen_emb>` was appended, or None.
        state: (hidden,) final-norm state of `<gen_emb>`, in the model's dtype.
    """

    ids: list[int] = field(default_factory=list[int])
    forced: str | None = None
    state: Tensor | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens the model chose itself."""
        return len(self.ids) - (self.forced is not None)


@dataclass
class _Running:
    """The rows still decoding; tensors shrink as rows finish."""

    rows: list[int]
    cache: Any
    mask: Tensor
    position: Tensor
    state: Tensor

    def keep(self, places: list[int]) -> None:
        """Drop every row but those at `places`, from the cache too."""
        index = torch.tensor(places, device=self.mask.device)
        self.rows = [self.rows[p] for p in places]
        self.cache.batch_select_indices(index)
        self.mask, self.position, self.state = (
            t[index] for t in (self.mask, self.position, self.state)
        )


def generate(
    model: Any,
    batch: Batch,
    states: Tensor,
    cache: Any,
    special: SpecialTokens,
    *,
    budget: int,
    sampling: Sampling | None,
) -> list[list[Generation]]:
    """Decode every row of a prefilled batch until its `<gen_emb>`.

    Args:
        states: (rows, tokens, hidden) of the prefill. cache: its keys and values; used up.
        budget: tokens a row may generate.

    Returns:
        One list of `sampling.n` (or one) generations per row.
    """
    count = sampling.n if sampling is not None else 1
    last = states[torch.arange(len(states), device=states.device), batch.lengths - 1]
    if count > 1:
        cache.batch_repeat_interleave(count)  # the prompt was prefilled once for all samples
    running = _Running(
        rows=list(range(len(states) * count)),
        cache=cache,
        mask=batch.mask.repeat_interleave(count, 0),
        position=batch.next_position.repeat_interleave(count, 0),
        state=last.repeat_interleave(count, 0),
    )
    done = [Generation() for _ in running.rows]
    pick = _Greedy() if sampling is None else _Sampler(sampling, len(done))
    while running.rows:
        tokens = pick(model.lm_head(running.state), running.rows)
        fed = [
            _next(done[row], token, special, budget)
            for row, token in zip(running.rows, tokens, strict=True)
        ]
        _forward(model, running, fed)
        going: list[int] = []
        for place, (row, token) in enumerate(zip(running.rows, fed, strict=True)):
            if token == special.gen:
                done[row].state = running.state[place].clone()
            else:
                going.append(place)
        if len(going) < len(running.rows) and going:
            running.keep(going)
        elif not going:
            running.rows = []
    return [done[i : i + count] for i in range(0, len(done), count)]


def _next(row: Generation, token: int, special: SpecialTokens, budget: int) -> int:
    """Record the token to feed: the chosen one, or a forced `<gen_emb>`."""
    if token != special.gen:
        if len(row.ids) >= budget:
            row.forced = f"no <gen_emb> within {budget} tokens"
        elif token in (special.end, special.pad):
            row.forced = "the model ended its answer without <gen_emb>"
    elif len(row.ids) >= budget:
        row.forced = f"no <gen_emb> within {budget} tokens"
    fed = special.gen if row.forced is not None else token
    row.ids.append(fed)
    return fed


def _forward(model: Any, running: _Running, tokens: list[int]) -> None:
    """One decoding step for all running rows; updates their state in place."""
    device = running.mask.device
    ids = torch.tensor(tokens, device=device)[:, None]
    running.mask = torch.cat([running.mask, torch.ones_like(ids)], dim=1)
    out = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(ids),
        position_ids=running.position[None, :, None].expand(3, -1, -1),
        attention_mask=running.mask,
        past_key_values=running.cache,
        use_cache=True,
    )
    running.state = out.last_hidden_state[:, -1]
    running.position = running.position + 1


class _Greedy:
    """The likeliest token, whatever the checkpoint's generation_config says."""

    def __call__(self, logits: Tensor, rows: list[int]) -> list[int]:  # noqa: ARG002
        return logits.argmax(dim=-1).tolist()


class _Sampler:
    """Temperature, top-k and top-p; every sample draws from its own generator."""

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self.sampling = sampling
        # On the CPU, so that a seed means the same draws on every device.
        self.generators = [
            torch.Generator().manual_seed(sampling.seed * 1_000_003 + row % sampling.n)
            for row in range(rows)
        ]

    def __call__(self, logits: Tensor, rows: list[int]) -> list[int]:
        scores = logits.float() / self.sampling.temperature
        if self.sampling.top_k:
            least = scores.topk(min(self.sampling.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.sampling.top_p < 1:
            ordered = scores.sort(dim=-1, descending=True).values
            before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
            kept = ordered.masked_fill(before >= self.sampling.top_p, torch.inf)
            scores = scores.masked_fill(scores < kept.amin(dim=-1, keepdim=True), -torch.inf)
        # Gumbel-max: unlike a walk along the cumulated probabilities, it does not change with the
        # last bits that differ between batches. -log of an exponential draw is Gumbel distributed.
        width = scores.shape[-1]
        draws = [torch.empty(width).exponential_(generator=self.generators[r]) for r in rows]
        return (scores - torch.stack(draws).log().to(scores.device)).argmax(dim=-1).tolist()
