"""What a run of `ume index` did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class BuildReport:
    """What a run did.

    Attributes:
        embedded: files embedded, those repaired included; each page of a PDF counts.
        unchanged: files and pages whose content was indexed already.
        moved: files and pages whose content was indexed under another name.
        removed: rows removed because their files are deleted.
        skipped: path of a file or folder -> why it is not indexed as it is now.
        kept: path of a row -> why it is kept although its file was not found.
        repaired: files embedded again because their rows were damaged.
        damaged: files of the index that were damaged when the run began.
        unread: suffix -> number of files of a kind that is not embedded.
        unsettled: files that changed in the last seconds, and are left for later.
        recall: vector column -> recall@10 of the index for approximate search that was made of it,
            against exact search.
    """

    embedded: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    repaired: list[str] = field(default_factory=list[str])
    damaged: list[str] = field(default_factory=list[str])
    unread: Counter[str] = field(default_factory=Counter[str])
    unsettled: list[str] = field(default_factory=list[str])
    recall: dict[str, float] = field(default_factory=dict[str, float])
