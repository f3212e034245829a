"""Continuous decoding that keeps one vector per row: the state of its own `<gen_emb>`.

Rows join a running batch when there is room and leave it when they are done. The rules (each a bug
of the published `eval_twomode.py` @55e5512): `<gen_emb>` counts only among generated tokens; a row
ends at its first `<gen_emb>`; the state is the forward pass *of* that token, also when it was the
last one allowed; a row that ends or runs out without it gets `<gen_emb>` appended and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ume_core.embedder import Sampling
from ume_qwen.thinking import StopRules
from ume_torch.kv import KeyValues, LayerKV, compacted
from ume_torch.steps import Steps


@dataclass(eq=False)
class Row:
    """One generation of one prompt.

    Attributes:
        prompt: the caller's number for its prompt.
        sample: which of the prompt's samples.
        position: M-RoPE position of its next token.
        state: (hidden,) final-norm state: of the prompt's last token until the row is done, then
            of `<gen_emb>`.
        rules: how it ends.
        sampling: how its tokens are chosen; None is greedy.
        generator: what its draws come from, made at the first one.
        forced_ids: tokens to feed before the model chooses any (the answer's given beginning).
        ids: generated tokens, `<gen_emb>` included.
        forced: why `<gen_emb>` was appended, or None.
        given: how many of `ids` came from `forced_ids`.
        logprob: sum of the log-probabilities of the tokens the model chose itself.
    """

    prompt: int
    sample: int
    position: int
    state: Tensor
    rules: StopRules
    sampling: Sampling | None = None
    generator: torch.Generator | None = None
    forced_ids: list[int] = field(default_factory=list[int])
    ids: list[int] = field(default_factory=list[int])
    forced: str | None = None
    given: int = 0
    logprob: float = 0.0

    @property
    def generated_tokens(self) -> int:
        """Tokens the model chose itself."""
        return len(self.ids) - self.given - (self.forced is not None)


class Pick(Protocol):
    """Chooses tokens."""

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of every row from its logits (rows, vocabulary)."""
        ...


class DecodeBatch:
    """The rows that are decoding."""

    def __init__(
        self,
        steps: Steps,
        lm_head: Callable[[Tensor], Tensor],
        cache: KeyValues,
        pick: Pick,
    ) -> None:
        self._steps, self._lm_head = steps, lm_head
        self.cache, self._pick = cache, pick
        self.rows: list[Row] = []
        self._states: Tensor | None = None  # (rows, hidden): of the last token of each

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Sequence[Row], kv: Sequence[LayerKV]) -> None:
        """Let rows join; `kv` holds the keys and values of each one's prompt."""
        going = self._states if self._states is not None else ()
        states = torch.stack([*going, *(r.state for r in rows)])
        self.cache.add(kv)
        self.rows += rows
        self._states = states

    def advance(self) -> list[Row]:
        """Feed every row one token; the rows that were done with it leave and are returned."""
        fed = self._choose()
        states = self._steps(fed, [r.position for r in self.rows], self.cache)
        done: list[Row] = []
        going: list[int] = []
        for place, (row, token) in enumerate(zip(self.rows, fed, strict=True)):
            row.ids.append(token)
            row.position += 1
            if token == row.rules.special.gen:
                row.state = states[place].clone()
                done.append(row)
            else:
                going.append(place)
        self._states = states
        if done:
            self._keep(going)
        return done

    def remove(self, prompt: int) -> None:
        """Let a prompt's rows leave unfinished."""
        going = [place for place, row in enumerate(self.rows) if row.prompt != prompt]
        if len(going) < len(self.rows):
            self._keep(going)

    def abandon(self) -> list[Row]:
        """Throw all rows out, unfinished, and forget what a failed step left half done."""
        rows, self.rows, self._states = self.rows, [], None
        self._steps.forget()
        self.cache.clear()
        return rows

    def close(self) -> None:
        """No more steps come."""
        self._steps.close()

    def _keep(self, places: list[int]) -> None:
        # Rows last: should anything before fail, all of them can still start again.
        order = compacted(places)
        states = self._states[order] if order and self._states is not None else None
        self.cache.keep(order)
        self._states = states
        self.rows = [self.rows[p] for p in order]

    def _choose(self) -> list[int]:
        """The token each row is fed next."""
        places = [p for p, r in enumerate(self.rows) if not r.forced_ids]
        chosen: Iterator[tuple[int, float]] = iter(())
        if places and self._states is not None:
            states = self._states if len(places) == len(self.rows) else self._states[places]
            logits = self._lm_head(states)
            tokens = self._pick(logits, [self.rows[p] for p in places])
            chosen = zip(tokens, logprobs(logits, tokens), strict=True)
        fed: list[int] = []
        for row in self.rows:
            if row.forced_ids:
                fed.append(row.forced_ids.pop(0))
                row.given += 1
            else:
                token, logprob = next(chosen)
                fed.append(self._next(row, token))
                if fed[-1] == token and row.forced is None:
                    row.logprob += logprob
        return fed

    def _next(self, row: Row, token: int) -> int:
        """The chosen token, the thinking's forced end, or a forced `<gen_emb>`."""
        rules, special = row.rules, row.rules.special
        used = row.generated_tokens
        if used >= rules.budget:
            row.forced = f"no <gen_emb> within {rules.budget} tokens"
        elif token in (special.end, special.pad):
            row.forced = "the model ended its answer without <gen_emb>"
        elif (
            token != special.gen
            and rules.thinking_budget is not None
            and used == rules.thinking_budget
            and not rules.thinking_done(row.ids)
        ):
            row.forced_ids = list(rules.think_end_ids[1:])
            row.given += 1
            return rules.think_end_ids[0]
        return special.gen if row.forced is not None else token


def logprobs(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probability of one token per row of logits (rows, vocabulary), at temperature 1."""
    chosen = torch.tensor(tokens, device=logits.device)
    return (-F.cross_entropy(logits.float(), chosen, reduction="none")).tolist()


def greedy(logits: Tensor, rows: Sequence[Row]) -> list[int]:  # noqa: ARG001
    """The likeliest token, whatever the checkpoint's generation_config says."""
    return logits.argmax(dim=-1).tolist()


class Sampler:
    """Temperature, top-k and top-p; every sample draws from its own generator."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def _generator(self, row: Row) -> torch.Generator:
        # On the CPU, so that a seed means the same draws on every device.
        if row.generator is None:
            seed = self.sampling.seed * 1_000_003 + row.sample
            row.generator = torch.Generator().manual_seed(seed)
        return row.generator

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """One draw per row."""
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
        # The dtype is said: the default is the process's, and other dtypes draw other numbers.
        draws = torch.empty(len(rows), width, dtype=torch.float32)
        for draw, row in zip(draws, rows, strict=True):
            draw.exponential_(generator=self._generator(row))
        return (scores - draws.log().to(scores.device)).argmax(dim=-1).tolist()


def choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Every row's next token, as its own sampling has it."""
    places: dict[Sampling | None, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.sampling, []).append(place)
    chosen = [0] * len(rows)
    for sampling, group in places.items():
        pick = greedy if sampling is None else Sampler(sampling)
        scores = logits if len(group) == len(rows) else logits[group]
        for place, token in zip(group, pick(scores, [rows[p] for p in group]), strict=True):
            chosen[place] = token
    return chosen
