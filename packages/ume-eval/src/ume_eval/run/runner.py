"""Scoring tasks with an embedder: parse, embed into stores, rank, write score files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ume_eval.data import Annotations, parse
from ume_eval.metrics import Ties, evaluate
from ume_eval.run.encoder import Encoder, Side
from ume_eval.run.scores import score_record, write_score
from ume_eval.tasks import DEFAULT_PROTOCOL, Protocol, Task


@dataclass(frozen=True)
class RunOptions:
    """What is scored, and how.

    Attributes:
        protocol: see `ume_eval.tasks.protocols`.
        query_mode: mode of queries.
        target_mode: mode of candidates.
        ties: how equal scores are ranked.
        convention: name of the prompt's and pixels' conventions, for the score files.
    """

    protocol: Protocol = DEFAULT_PROTOCOL
    query_mode: Side = "disc"
    target_mode: Side = "disc"
    ties: Ties = "expected"
    convention: str = "the embedder's own"


def run_task(
    task: Task,
    annotations: Annotations,
    encoder: Encoder,
    options: RunOptions,
    *,
    expected: Task | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score one task; returns the content of its score file.

    Args:
        task: what is scored.
        expected: the protocol's own description of it, if it was changed.
        advance: called with a number of entries when they are done.
    """
    # Unlike modes are compared on purpose here; the file says whether the model card allows it.
    signatures = (encoder.signature(options.query_mode), encoder.signature(options.target_mode))
    data = parse(task, annotations)
    queries = encoder.embed([q.entry for q in data.queries], options.query_mode, advance)
    candidates = encoder.embed(data.candidates, options.target_mode, advance)
    evaluated = evaluate(
        data,
        queries.vectors,
        candidates.vectors,
        ties=options.ties,
        failed_queries=queries.failed,
        failed_candidates=candidates.failed,
    )
    return score_record(
        data,
        evaluated,
        protocol=options.protocol,
        convention=options.convention,
        signatures=signatures,
        stored=(queries, candidates),
        ties=options.ties,
        budget=encoder.budget,
        expected=expected or task,
    )


def run_tasks(
    tasks: Sequence[Task],
    annotations: Annotations,
    encoder: Encoder,
    output: Path,
    options: RunOptions,
    *,
    expected: Sequence[Task] = (),
    started: Callable[[Task], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score tasks one after the other; the first process writes their files.

    Args:
        tasks: what is scored.
        output: directory of score files.
        expected: the protocol's table, to compare row counts with.
        started: called when a task begins.
        advance: see `run_task`.
    """
    table = {t.name: t for t in expected}
    records: dict[str, dict[str, Any]] = {}
    for task in tasks:
        if started is not None:
            started(task)
        records[task.name] = run_task(
            task, annotations, encoder, options, expected=table.get(task.name), advance=advance
        )
        if encoder.workers.first:
            write_score(output, records[task.name])
    return records
