"""What embedding returns: vectors in input order and one record per item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ume_core.errors import InvalidOption, PluginError
from ume_core.signature import Signature

Vectors: TypeAlias = npt.NDArray[np.float32]
Status: TypeAlias = Literal["ok", "forced", "failed"]


@dataclass(frozen=True)
class Sample:
    """One generation of an item.

    Attributes:
        status: `ok`, or `forced` when `<gen_emb>` did not come within the budget (or the model
            ended without it) and was appended.
        reason: why it was forced.
        text: all generated text, special tokens shown.
        thinking: the part between `<think>` and `</think>`; empty when the model produced none.
        summary: the answer's sentence or paragraph; empty when the model produced none.
        generated_tokens: tokens the model generated, the forced one not counted.
        short: the word or phrase that the answer gives between box marks; empty without them.
        mean_logprob: mean log-probability (natural, at temperature 1) of the tokens the model
            generated; None where the engine does not say, or it generated none. Not compared: its
            last bits depend on the batch.
    """

    status: Status
    text: str
    thinking: str
    summary: str
    generated_tokens: int
    reason: str | None = None
    short: str = ""
    mean_logprob: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Record:
    """What happened to one item.

    Attributes:
        status: `ok`; `forced` when any of its samples was; `failed` when it has no vector.
        reason: the error of a failed item, or why it was forced.
        prompt_tokens: tokens of its prompt, visual ones included.
        samples: its generations, empty in disc mode.
        warnings: what was noticed about the item that did not stop it, as sentences.
    """

    status: Status
    reason: str | None = None
    prompt_tokens: int = 0
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def thinking(self) -> str:
        """The first sample's thinking."""
        return self.samples[0].thinking if self.samples else ""

    @property
    def summary(self) -> str:
        """The first sample's summary."""
        return self.samples[0].summary if self.samples else ""

    @property
    def label(self) -> str:
        """The first sample's shortest account of the item: its short form, else its summary."""
        return (self.samples[0].short or self.samples[0].summary) if self.samples else ""

    @property
    def generated_tokens(self) -> int:
        """Tokens generated over all samples."""
        return sum(s.generated_tokens for s in self.samples)


@dataclass(frozen=True)
class EmbeddingResult:
    """Vectors and records of one `embed` call, in input order.

    Attributes:
        disc: float32 (items, dimensions), unit length; None if not asked for.
        gen_samples: float32 (items, samples, dimensions), unit length; None if not asked for.
        records: one per item. Rows of failed items are NaN.
        signature: of the whole call; `signature.for_mode("disc")` is that of `disc`.
    """

    records: tuple[Record, ...]
    signature: Signature
    disc: Vectors | None = None
    gen_samples: Vectors | None = None

    def __post_init__(self) -> None:
        """Refuse vectors that are not finite: no later step would notice.

        Raises:
            PluginError: an item that has not failed has NaN or infinity in its vector.
        """
        for vectors in (self.disc, self.gen_samples):
            if vectors is None:
                continue
            for index, record in enumerate(self.records):
                if record.status != "failed" and not np.isfinite(vectors[index]).all():
                    raise PluginError(
                        f"the engine gave item {index} a vector that is not finite",
                        fix="embed the item alone, and report it to the engine's author",
                    )

    @property
    def gen(self) -> Vectors | None:
        """float32 (items, dimensions): the first (greedy: only) sample's vectors."""
        return None if self.gen_samples is None else self.gen_samples[:, 0]

    @property
    def failed(self) -> list[int]:
        """Indexes of the items without a vector."""
        return [i for i, r in enumerate(self.records) if r.status == "failed"]

    def vectors(self, mode: str) -> Vectors:
        """`disc` or `gen` by name.

        Raises:
            InvalidOption: they were not asked for, or there is no such mode.
        """
        found = self.disc if mode == "disc" else self.gen if mode == "gen" else None
        if found is None:
            raise InvalidOption(
                f"this result holds no {mode!r} vectors",
                fix=f"embed with mode={mode!r} or 'both'"
                if mode in ("disc", "gen")
                else "name disc or gen",
            )
        return found

    def __len__(self) -> int:
        return len(self.records)


def similarity(a: EmbeddingResult, b: EmbeddingResult, mode: str = "disc") -> Vectors:
    """Cosine similarities, float32 (len(a), len(b)).

    Raises:
        SignatureMismatch: the two results are not comparable.
        InvalidOption: one of them holds no vectors of this mode.
    """
    first, second = a.vectors(mode), b.vectors(mode)
    check = "disc" if mode == "disc" else "gen"
    a.signature.for_mode(check).check(b.signature.for_mode(check))
    return np.inner(first, second)
