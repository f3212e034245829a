"""From requests to outputs: the gen cache, the answers' text as it comes, their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ume_core.errors import UmeError
from ume_core.results import Record, Sample, Vectors
from ume_core.signature import Signature
from ume_qwen.answers import AnswerText, sample
from ume_qwen.decoding import GenRequest, Output
from ume_qwen.embedder import unit
from ume_qwen.prepare import Preparer
from ume_qwen.thinking import beginning, stop_rules
from ume_torch.decoding import Decoding, Generated
from ume_torch.gen_cache import GenCache
from ume_torch.generate import Row
from ume_torch.scheduler import Asked


class Answering:
    """Requests that decode together; see `ume_qwen.decoding.Decoding`."""

    def __init__(
        self,
        requests: Iterator[GenRequest | None],
        start: Callable[[Iterator[Asked | None]], Decoding],
        prepare: Preparer,
        signature: Signature,
        cache: GenCache | None,
    ) -> None:
        """Start with nothing running.

        Args:
            requests: what is asked for; None says that there is nothing yet.
            start: makes what decodes.
            prepare: how the requests' prompts were made.
            signature: of gen vectors.
            cache: answers kept, or None.
        """
        self._requests, self._prepare = requests, prepare
        self._signature, self._cache = signature, cache
        self._begun: dict[int, tuple[GenRequest, bytes]] = {}
        self._ready: list[tuple[int, Output | UmeError]] = []
        self._texts: dict[tuple[int, int], AnswerText] = {}
        self._decoding = start(self._asked())

    @property
    def running(self) -> int:
        """Answers that are being generated."""
        return len(self._decoding.rows)

    @property
    def finished(self) -> bool:
        """Whether all is done and nothing more will come."""
        return self._decoding.finished and not self._ready

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits here."""
        return self._decoding.idle and not self._ready

    def advance(self) -> list[tuple[int, Output | UmeError]]:
        """Start what there is room for, feed every answer one token; what is done, by number."""
        made = self._decoding.advance(self._tell)
        done, self._ready = self._ready, []
        for one in made:
            if isinstance(one, tuple):
                done.append(one)
                self._forget(one[0])
                continue
            try:
                done.append((one.number, self._output(one)))
            except UmeError as error:  # NaN: this item's own failure
                done.append((one.number, error))
            self._forget(one.number)
        return done

    def cancel(self, number: int) -> None:
        """Forget a request; its room is free at once."""
        self._decoding.cancel(number)
        self._ready = [(n, output) for n, output in self._ready if n != number]
        self._forget(number)

    def close(self) -> None:
        """Forget everything."""
        self._decoding.close()

    def _asked(self) -> Iterator[Asked | None]:
        """The requests that are not in the cache."""
        for request in self._requests:
            if request is None:
                yield None
                continue
            key = b""
            if self._cache is not None and request.beginning is None:
                key = self._cache.key(
                    request.prompt, self._signature, request.budget, request.sampling
                )
                kept = self._cache.get(key)
                if kept is not None:
                    record, disc, gen = kept
                    # Not kept: equal pictures may come from a sound and a damaged file.
                    record = replace(record, warnings=request.prompt.warnings)
                    self._ready.append((request.number, Output(record, disc, gen)))
                    continue
            self._begun[request.number] = request, key
            rules = stop_rules(self._prepare, request.budget)
            given = tuple(beginning(self._prepare, request.beginning))
            yield Asked(request.number, request.prompt, rules, request.sampling, given)

    def _tell(self, rows: Sequence[Row]) -> None:
        """Hand on the new text of every row that somebody listens to."""
        for row in rows:
            request, _ = self._begun[row.prompt]
            if request.on_token is None:
                continue
            key = row.prompt, row.sample
            text = self._texts.setdefault(key, AnswerText(self._prepare.tokenizer))
            new = text.take(row.ids)
            if new:
                request.on_token(row.sample, new)

    def _forget(self, number: int) -> None:
        self._begun.pop(number, None)
        for key in [key for key in self._texts if key[0] == number]:
            del self._texts[key]

    def _output(self, made: Generated) -> Output:
        request, key = self._begun[made.number]
        samples = tuple(self._sample(row) for row in made.rows)
        forced = next((s.reason for s in samples if s.status == "forced"), None)
        prompt = request.prompt
        record = Record(
            "forced" if forced else "ok", forced, len(prompt.ids), samples, prompt.warnings
        )
        vectors = unit_rows(torch.stack([made.disc, *(row.state for row in made.rows)]))
        output = Output(record, vectors[0], list(vectors[1:]))
        if self._cache is not None and request.beginning is None:
            self._cache.put(key, replace(record, warnings=()), vectors[0], output.gen)
        return output

    def _sample(self, row: Row) -> Sample:
        count = row.generated_tokens
        logprob = row.logprob / count if count else None
        return sample(self._prepare.tokenizer, row.ids, row.given, row.forced, logprob)


def unit_rows(states: Tensor) -> Vectors:
    """(rows, hidden) states, L2-normalised in float32."""
    return unit(states.float().cpu().numpy())
