"""Supervised fine-tuning.

A step contrasts `batch.pairs` pairs, `batch.accumulate` times. Each process computes its share, in
chunks where it is larger than memory allows: vectors first, then the loss on vectors alone, which
all processes' vectors enter, then each chunk again with gradient (GradCache, arXiv 2101.06983).
Cross-entropy needs no other rows and joins the second pass. A share of one chunk is passed once.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ume_core.errors import InvalidOption
from ume_train.config.stages import SFTConfig
from ume_train.data.pairs import PairBatch, PairSource
from ume_train.evaluation import Pair
from ume_train.gather import gather, processes, rank, summed
from ume_train.logs import Log, Row
from ume_train.losses import Pairs, contrast, token_weights
from ume_train.rendering import Sequences
from ume_train.run import Run

_EASY = 0.99  # in-batch accuracy above which a batch teaches little
_EASY_STEPS = 50


@dataclass(frozen=True)
class Prepared:
    """One process's share of the pairs that are contrasted.

    Attributes:
        rows: queries, then positives.
        gen: whether answers train.
        teacher: float32 (pairs of all processes, dim), or None.
        dataset: what the pairs are from.
    """

    rows: Sequences
    gen: bool
    teacher: Tensor | None
    dataset: str


class SFT(Run):
    """Trains on a `PairSource`.

    Args:
        config: what to do.
        out: the run's directory; a run that is there goes on.
        source: the pairs, as a function of the batch: `step * accumulate + n`.
        steps: optimizer steps.
        roots: directories that media may be read from, where not those of `config`'s files.
        held_out: pairs on which `config.evaluate` measures retrieval.
    """

    stage = "sft"
    config: SFTConfig

    def __init__(
        self,
        config: SFTConfig,
        out: Path,
        source: PairSource,
        steps: int,
        roots: tuple[Path, ...] | None = None,
        held_out: Sequence[Pair] = (),
    ) -> None:
        self._roots = roots
        super().__init__(config, out, steps, held_out)
        self.source = source
        share, extra = divmod(config.batch.pairs, processes())
        group = config.loss.ce_pairs
        if extra or (group is not None and share % group):
            raise InvalidOption(
                f"batch.pairs ({config.batch.pairs}) cannot be shared by {processes()} processes"
                + (f" in groups of loss.ce_pairs ({group})" if group else ""),
                fix="change one of them",
            )
        self._waiting: Iterator[Prepared] | None = None
        self._easy = 0

    def roots(self) -> tuple[Path, ...]:
        """See `Run.roots`."""
        return super().roots() if self._roots is None else self._roots

    @property
    def aligns(self) -> bool:
        """See `Run.aligns`."""
        return self.config.loss.align > 0

    def train(self, until: int | None = None) -> bool:
        """See `Run.train`."""
        last = min(until or self.steps, self.steps)
        self._waiting = self._ahead(last)
        try:
            return super().train(until)
        finally:
            self._waiting.close()  # type: ignore[attr-defined]

    def advance(self) -> Row:
        """See `Run.advance`."""
        assert self._waiting is not None
        row: Row = {}
        count = self.config.batch.accumulate
        for number in range(count):
            found = self._group(next(self._waiting), number)
            for name, value in found.items():
                if isinstance(value, float):
                    row[name] = row.get(name, 0.0) + value / count
                else:
                    row[name] = value
        return row

    def _group(self, prepared: Prepared, number: int) -> Row:
        """Gradients of one group of contrasted pairs."""
        settings = self.config.loss
        rows, half = prepared.rows, len(prepared.rows) // 2
        chunks = self._chunks(half)
        once = len(chunks) == 1
        usable = torch.tensor([f is None for f in rows.failed], device=self.device)
        usable = usable[:half] & usable[half:]
        pairs = self._pairs(rows, usable)
        weights = self._token_weights(rows, usable)
        last_group = number == self.config.batch.accumulate - 1
        passes = []
        for index, chunk in enumerate(chunks):
            with torch.set_grad_enabled(once), self.no_sync(not (once and last_group)):
                self.seed_pass(number, index)
                passes.append(self.policy(rows.select(chunk)))
        order = torch.tensor([r for chunk in chunks for r in chunk], device=self.device)
        place = order.argsort()

        def leaf(vectors: list[Tensor]) -> Tensor:
            return torch.cat([v.detach() for v in vectors])[place].requires_grad_()

        disc, gen = leaf([p.disc for p in passes]), leaf([p.gen for p in passes])
        align = prepared.gen and self.step >= settings.align_from * self.steps
        teacher = None if prepared.teacher is None else prepared.teacher.to(self.device)
        terms = contrast(
            disc, gen if prepared.gen else None, settings, pairs, align=align, teacher=teacher
        )
        total = sum(terms.values(), torch.zeros((), device=self.device))
        if total.requires_grad:
            total.backward()
        entropy = torch.zeros((), device=self.device)
        for index, chunk in enumerate(chunks):
            final = index == len(chunks) - 1 and last_group
            with self.no_sync(not final):
                found = passes[0]
                if not once:
                    self.seed_pass(number, index)
                    found = self.policy(rows.select(chunk))
                loss = sum(
                    (states * vectors.grad[chunk]).sum()
                    for states, vectors in ((found.disc, disc), (found.gen, gen))
                    if vectors.grad is not None
                )
                if prepared.gen and settings.ce:
                    own = weights[chunk].repeat_interleave(
                        _learned(rows.select(chunk), self.device)
                    )
                    cross = -settings.ce * (found.log_probs * own).sum() * processes()
                    entropy += cross.detach()
                    loss = loss + cross
                else:  # every weight has a part in every pass
                    loss = loss + 0 * found.log_probs.sum()
                self.accelerator.backward(loss / self.config.batch.accumulate)
        return self._row(terms, entropy, prepared, disc.detach(), gen.detach(), usable)

    def _row(
        self, terms: dict[str, Tensor], entropy: Tensor, prepared: Prepared, disc: Tensor,
        gen: Tensor, usable: Tensor,
    ) -> Row:  # fmt: skip
        found = {name: self.total(value) for name, value in terms.items()}
        if prepared.gen and self.config.loss.ce:
            found["ce"] = self.total(entropy)
        found["loss"] = sum(found.values())
        row: Row = dict(found)
        row["accuracy_disc"] = _accuracy(disc)
        if prepared.gen:
            row["accuracy_gen"] = _accuracy(gen)
        if prepared.dataset:
            row[f"loss/{prepared.dataset}"] = found["loss"]
        row["skipped"] = float(summed((~usable).sum()))
        return row

    def _chunks(self, half: int) -> list[list[int]]:
        """Rows of each pass: queries and positives of the same pairs."""
        size = self.config.batch.chunk
        return [
            [*range(n, min(n + size, half)), *range(half + n, half + min(n + size, half))]
            for n in range(0, half, size)
        ]

    def _pairs(self, rows: Sequences, usable: Tensor) -> Pairs:
        half = len(rows) // 2
        keys = torch.tensor(rows.keys, device=self.device)
        return Pairs.of(
            gather(usable), gather(keys[:half]), gather(keys[half:]),
            mask=self.config.loss.mask_duplicates,
        )  # fmt: skip

    def _token_weights(self, rows: Sequences, usable: Tensor) -> Tensor:
        half = len(rows) // 2
        size = self.config.loss.ce_pairs or self.config.batch.pairs
        first = rank() * half
        pair = torch.arange(first, first + half, device=self.device) // size
        groups, usable = pair.repeat(2), usable.repeat(2)
        sides = torch.arange(2 * half, device=self.device) // half
        tokens = _learned(rows, self.device)
        total = torch.zeros(self.config.batch.pairs // size, 2, device=self.device)
        total.index_put_((groups, sides), (tokens * usable).float(), accumulate=True)
        return token_weights(sides, groups, usable, summed(total))

    def prepare(self, batch: PairBatch) -> Prepared:
        """Lay out this process's share of a batch; CPU work that runs ahead of the model."""
        count = len(batch.queries)
        share = count // processes()
        own = slice(rank() * share, rank() * share + share)
        rows = self.render(
            [*batch.queries[own], *batch.positives[own]], answers=batch.gen, asked=batch.asked,
            blank=batch.blank, skip=self.config.data.bad_media == "skip",
        )  # fmt: skip
        failed = [f for f in rows.failed if f is not None]
        if failed:
            with (self.out / "skipped.jsonl").open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(f) + "\n" for f in failed)
        teacher = None if batch.teacher is None else torch.from_numpy(batch.teacher)
        return Prepared(rows, batch.gen, teacher, batch.dataset)

    def _ahead(self, last: int) -> Iterator[Prepared]:
        """Batches prepared by one thread, two ahead; a failure there is raised here."""
        waiting: queue.Queue[Prepared | BaseException] = queue.Queue(maxsize=2)
        stop = threading.Event()
        count = self.config.batch.accumulate
        numbers = range(self.step * count, last * count)

        def put(ready: Prepared | BaseException) -> None:
            while not stop.is_set():
                try:
                    waiting.put(ready, timeout=0.5)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for number in numbers:
                    if stop.is_set():
                        return
                    put(self.prepare(self.source.batch(number)))
            except BaseException as error:
                put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            for _ in numbers:
                ready = waiting.get()
                if isinstance(ready, BaseException):
                    raise ready
                yield ready
        finally:
            stop.set()

    def after_step(self, log: Log, row: Row) -> None:  # noqa: ARG002
        """Warn where batches stay too easy to teach anything."""
        self._easy = self._easy + 1 if row["accuracy_disc"] > _EASY else 0
        if self._easy >= _EASY_STEPS:
            self.warn("easy", f"for {self._easy} steps disc has found more than 99 % of the pairs "
                      "in their batch, which teaches little: make batch.pairs larger, or fill "
                      "batches from one data set each (data.order grouped)")  # fmt: skip


def _learned(rows: Sequences, device: torch.device) -> Tensor:
    """Learned tokens of each row, int64."""
    counts = [len(p.ids) - n for p, n in zip(rows.prompts, rows.learned, strict=True)]
    return torch.tensor(counts, device=device)


def _accuracy(vectors: Tensor) -> float:
    """Share of queries whose own positive is nearest among all processes'."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    half = len(unit) // 2
    queries, positives = gather(unit[:half]), gather(unit[half:])
    best = (queries @ positives.T).argmax(dim=1)
    return float((best == torch.arange(len(best), device=best.device)).float().mean())
