"""Means over tasks: of meta-tasks, modalities and all 78; partial ones say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ume_core.errors import InvalidOption
from ume_eval.tasks import META_TASKS, MODALITIES, Task


@dataclass(frozen=True)
class Mean:
    """A plain mean of task scores.

    Attributes:
        value: in percent; None where no task of the group was scored.
        scored: tasks it is the mean of.
        total: tasks of the group.
    """

    value: float | None
    scored: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether every task of the group was scored; only then is it comparable."""
        return self.scored == self.total

    def __str__(self) -> str:
        if self.value is None:
            return f"- (0/{self.total})"
        return f"{self.value:.1f}" + ("" if self.complete else f" ({self.scored}/{self.total})")


def means(scores: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, Mean]:
    """Means by `image`, `I-CLS`, ..., and `All`.

    Args:
        scores: main metric, 0 to 1, by task name.
        tasks: the whole benchmark.

    Raises:
        InvalidOption: a score belongs to no task of the benchmark.
    """
    names = {t.name for t in tasks}
    foreign = sorted(set(scores) - names)
    if foreign:
        raise InvalidOption(
            f"{foreign[0]!r} is not a task of this benchmark", fix="leave it out of the mean"
        )
    groups: dict[str, list[str]] = {}
    for modality in MODALITIES:
        groups[modality] = [t.name for t in tasks if t.modality == modality]
        for meta in META_TASKS[modality]:
            groups[meta] = [t.name for t in tasks if t.meta_task == meta]
    groups["All"] = [t.name for t in tasks]
    return {group: _mean(scores, members) for group, members in groups.items()}


def _mean(scores: Mapping[str, float], members: Sequence[str]) -> Mean:
    found = [scores[name] for name in members if name in scores]
    value = 100 * sum(found) / len(found) if found else None
    return Mean(value, len(found), len(members))
