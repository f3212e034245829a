"""The session of the engines for these checkpoints: disc in packs, gen row by row."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ume_core.errors import UmeError
from ume_core.items import Item
from ume_core.results import Record
from ume_core.session import Embedded
from ume_core.sessions.base import BaseSession
from ume_core.sessions.jobs import How, Job, Kind
from ume_qwen.decoding import Decoding, GenRequest, Output
from ume_qwen.render import RenderedPrompt

if TYPE_CHECKING:
    from ume_qwen.embedder import QwenEmbedder


class QwenSession(BaseSession[RenderedPrompt]):
    """Many callers on one loaded model."""

    steps: frozenset[Kind] = frozenset({"gen"})

    def __init__(self, embedder: QwenEmbedder, bulk_later: float) -> None:
        directory = embedder.checkpoint.directory
        super().__init__(embedder.name, embedder.modes, bulk_later, directory)
        self._embedder = embedder
        self._decoding: Decoding | None = None

    def check(self) -> None:
        """See `QwenEmbedder.check_process`."""
        self._embedder.check_process()

    def prepare(self, item: Item, how: How, scope: str) -> RenderedPrompt:
        """Its prompt; up to `<disc_emb>` in disc mode: attention is causal."""
        return self._embedder.prepared(item, how.mode, how.budget, scope)

    def size(self, prepared: RenderedPrompt) -> int:
        """Bytes of its pixels."""
        return prepared.nbytes

    def key(self, prepared: RenderedPrompt, how: How) -> Hashable:
        """By tokens, positions and the content of media, and what is asked."""
        digest = blake2b(prepared.ids.tobytes(), digest_size=32)
        digest.update(np.ascontiguousarray(prepared.positions).tobytes())
        for visual in prepared.media:
            digest.update(visual.digest)
        # Warnings are the item's own: equal pixels may come from a sound and a damaged file.
        return how, digest.digest(), prepared.warnings

    def budget(self, asked: int | None) -> int:
        """See `QwenEmbedder.budget`."""
        return self._embedder.budget(asked)

    def fits(self, group: Sequence[Job[RenderedPrompt]], more: Job[RenderedPrompt]) -> bool:
        """Whether the pack stays within the engine's bounds."""
        return self._embedder.fits([_prompt(job) for job in group], _prompt(more))

    def compute(self, group: Sequence[Job[RenderedPrompt]]) -> list[Embedded | UmeError]:
        """One pack."""
        prompts = [_prompt(job) for job in group]
        outcomes: list[Embedded | UmeError] = []
        vectors = self._embedder.disc_vectors(prompts)
        for job, prompt, vector in zip(group, prompts, vectors, strict=True):
            if isinstance(vector, UmeError):
                outcomes.append(vector)
                continue
            record = Record("ok", None, len(prompt.ids), warnings=prompt.warnings)
            outcomes.append(self._embedded(job, Output(record, vector, [])))
        return outcomes

    def step(self) -> bool:
        """One token for every running answer."""
        if self._decoding is None:
            if not self.gen_ready:
                return False
            self._decoding = self._embedder.decoding(self._requests())
        for number, output in self._decoding.advance():
            job = self.running_job(number)
            if job is not None:
                failed = isinstance(output, UmeError)
                self.finish(job, output if failed else self._embedded(job, output))
        if self._decoding.idle and not self.gen_ready:
            # Its memory is free again, and what shortage taught it is forgotten.
            self.end()
        return True

    def drop(self, jobs: Sequence[Job[RenderedPrompt]]) -> None:
        """Their rows are free."""
        for job in jobs:
            if self._decoding is not None:
                self._decoding.cancel(job.number)

    def end(self) -> None:
        """Nothing decodes."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None

    def _requests(self) -> Iterator[GenRequest | None]:
        while True:
            job = self.take_gen()
            yield None if job is None else self._request(job)

    def _request(self, job: Job[RenderedPrompt]) -> GenRequest:
        def on_token(sample: int, text: str) -> None:
            self.said(job, sample, text)

        return GenRequest(job.number, _prompt(job), job.how.budget, job.how.sampling, on_token)

    def _embedded(self, job: Job[RenderedPrompt], output: Output) -> Embedded:
        mode = job.how.mode
        return Embedded(
            output.record, self._embedder.signature(mode),
            output.disc if mode != "gen" else None,
            np.stack(output.gen) if output.gen else None,
            (job.began or job.submitted) - job.submitted,
        )  # fmt: skip


def _prompt(job: Job[RenderedPrompt]) -> RenderedPrompt:
    assert job.prepared is not None  # as of every job that is ready
    return job.prepared
