"""`Task`: the neutral description of one MMEB-V2 task, from which both runners are made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeAlias

Modality: TypeAlias = Literal["image", "video", "visdoc"]
Ranking: TypeAlias = Literal["local", "global"]
MODALITIES: tuple[Modality, ...] = ("image", "video", "visdoc")
META_TASKS: dict[Modality, tuple[str, ...]] = {
    "image": ("I-CLS", "I-QA", "I-RET", "I-VG"),
    "video": ("V-CLS", "V-QA", "V-RET", "V-MR"),
    "visdoc": ("VDRv1", "VDRv2", "VisRAG", "OOD"),
}
HIT, NDCG = "hit@1", "ndcg_linear@5"


@dataclass(frozen=True)
class Source:
    """Where a task's annotations come from.

    Attributes:
        repo: data set on the Hugging Face hub, `owner/name`.
        config: its configuration; None where it has one only. BEIR sets have three, see `parser`.
        split: the split that is scored.
        revision: commit that other evaluations pinned; None where no pin is known.
    """

    repo: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: key in score files and on the leaderboard (of v2.0; see `leaderboard_name`).
        modality: `image`, `video` or `visdoc`.
        meta_task: group of the published tables.
        parser: function that reads its rows, see `ume_eval.data.parsers`.
        ranking: `local` ranks the query's own candidates, `global` the whole corpus.
        source: annotations.
        queries: rows that are scored.
        candidates: candidates per query (local) or in the corpus (global); None where it varies.
        query_instruction: text before the query; None where it is a column of the data.
        target_instruction: text before a candidate; None where it is a column, "" where there is
            none.
        roots: directories of its media below the data directory, the first existing one counts.
            Archives were unpacked to different places over time.
        frames: frames taken of a video; None for pictures.
        clip_frames: frames taken of a candidate clip of moment retrieval, if not `frames`.
        graded: relevance has more than one level. Upstream attaches those grades to wrong pages.
        first_rows: only this many rows are scored; None for all.
        data_path: JSON lines that replace `source`, as older configurations name them.
    """

    name: str
    modality: Modality
    meta_task: str
    parser: str
    ranking: Ranking
    source: Source
    queries: int | None
    candidates: int | None
    query_instruction: str | None = None
    target_instruction: str | None = None
    roots: tuple[str, ...] = ()
    frames: int | None = None
    clip_frames: int | None = None
    graded: bool = False
    first_rows: int | None = None
    data_path: str | None = None
    leaderboard_name: str = field(default="")

    @property
    def metric(self) -> str:
        """The metric that counts: hit@1, or linear NDCG@5 for visual documents."""
        return NDCG if self.modality == "visdoc" else HIT

    @property
    def key(self) -> str:
        """Its key in the leaderboard's JSON."""
        return self.leaderboard_name or self.name

    def with_instructions(self, query: str, target: str) -> Task:
        """The same task under other instructions."""
        return replace(self, query_instruction=query, target_instruction=target)


def instruction_digest(tasks: list[Task]) -> str:
    """16 hex digits over the instruction table, so that differing prompts are seen in a score."""
    table = {t.name: (t.query_instruction, t.target_instruction) for t in tasks}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def task_digest(task: Task) -> str:
    """16 hex digits over everything a task says."""
    return hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode()).hexdigest()[:16]
