"""Retrieval on pairs that are never trained on, by the inference engine on the weights as saved."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ume_core
from ume_core.errors import InvalidItem
from ume_core.items import Item
from ume_core.limits import Policy
from ume_train.config.sections import EvaluateSection
from ume_train.data.pairs import Example
from ume_train.gather import gather, processes, rank
from ume_train.rendering import Renderings

Pair = tuple[Example, Example]


def recall(queries: Tensor, targets: Tensor, keys: Sequence[int]) -> float:
    """Share of queries whose nearest target is their own, or an item equal to it.

    Args:
        queries, targets: unit vectors (pairs, dim), row for row.
        keys: of the targets, equal for equal items.
    """
    nearest = (queries @ targets.T).argmax(dim=1).tolist()
    return sum(keys[n] == key for n, key in zip(nearest, keys, strict=True)) / len(keys)


class HeldOut:
    """Held-out pairs and how they are measured.

    Args:
        pairs: queries and targets; one with a side that cannot be read is left out.
        settings: what is measured.
        render: lays items out, to tell equal ones.
        roots: directories that media may be read from.
        device: where the model is loaded for it.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        settings: EvaluateSection,
        render: Renderings,
        roots: tuple[Path, ...],
        device: torch.device,
    ) -> None:
        self.settings, self._device = settings, device
        self._policy = Policy(files=bool(roots), roots=roots or None, urls=False)
        read = [render([e for e, _ in pairs], answers=False, skip=True),
                render([e for _, e in pairs], answers=False, skip=True)]  # fmt: skip
        sound = [n for n in range(len(pairs)) if not read[0].failed[n] and not read[1].failed[n]]
        if len(sound) < 2:
            raise InvalidItem(
                f"{len(sound)} of {len(pairs)} held-out pairs can be read",
                fix="mend the files that evaluate names",
            )
        self.pairs = [pairs[n] for n in sound]
        self._keys = [read[1].keys[n] for n in sound]

    def measure(self, model: Path) -> dict[str, float]:
        """recall@1 of queries among targets by mode, and `recall`, their mean; all processes."""
        share = -(-len(self.pairs) // processes())
        own = [min(rank() * share + n, len(self.pairs) - 1) for n in range(share)]
        items: list[Item] = [self.pairs[n][side].item for side in (0, 1) for n in own]
        engine = ume_core.load(
            str(model), engine="torch", device=str(self._device), policy=self._policy
        )
        mode: Any = self.settings.mode
        result = engine.embed(items, mode=mode, max_new_tokens=self.settings.new_tokens)
        del engine
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        found: dict[str, float] = {}
        for name in ("disc", "gen") if mode == "both" else (mode,):
            vectors = torch.from_numpy(result.vectors(name)).to(self._device)
            queries, targets = (
                gather(half.contiguous())[: len(self.pairs)] for half in vectors.split(share)
            )
            found[name] = recall(queries, targets, self._keys)
        return {**found, "recall": sum(found.values()) / len(found)}


def keep_best(model: Path, best: Path) -> None:
    """Put a copy of a model in place of the best before it."""
    partial = best.with_name(f"{best.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    shutil.rmtree(best, ignore_errors=True)
    partial.replace(best)
