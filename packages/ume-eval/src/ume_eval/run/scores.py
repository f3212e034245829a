"""Score files: a number never stands alone, but with everything that decides it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ume_core import Signature
from ume_core.errors import InvalidOption
from ume_eval.conventions import stated
from ume_eval.data.model import TaskData
from ume_eval.metrics import Evaluated, Ties
from ume_eval.metrics.bootstrap import interval
from ume_eval.run.store import Stored, write_json
from ume_eval.tasks import Protocol, Task, instruction_digest
from ume_eval.tasks.protocols import COMMITS

SCHEMA = 1
_LIBRARIES = (
    "ume-eval", "ume-core", "numpy", "torch", "transformers", "qwen-vl-utils", "pillow",
    "datasets",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Versions that can decide a score; absent libraries are left out."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def score_record(
    data: TaskData,
    evaluated: Evaluated,
    *,
    protocol: Protocol,
    convention: str,
    signatures: tuple[Signature, Signature],
    stored: tuple[Stored, Stored],
    ties: Ties,
    budget: int,
    expected: Task,
) -> dict[str, Any]:
    """A task's score file.

    Args:
        data: what was scored.
        evaluated: its metrics.
        protocol: see `ume_eval.tasks.protocols`.
        convention: name of the prompt's and pixels'.
        signatures: of queries and candidates.
        stored: likewise.
        ties: how equal scores were ranked.
        budget: tokens an answer may have.
        expected: the task of the protocol's table, to compare row counts and frames.
    """
    task = data.task
    values = evaluated.per_query
    gen = [s.mode == "gen" for s in signatures]
    return {
        "schema": SCHEMA,
        "task": task.name,
        "leaderboard_name": task.key,
        "modality": task.modality,
        "meta_task": task.meta_task,
        "metric": task.metric,
        "score": evaluated.metrics[task.metric],
        "interval_95": list(interval(values)),
        "metrics": evaluated.metrics,
        "upstream_exact": evaluated.upstream_exact,
        "protocol": {"name": protocol, "vlm2vec_commit": COMMITS[protocol]},
        "ranking": task.ranking,
        "ties": {"policy": ties, "queries_with_a_tied_positive": evaluated.tied},
        "rows": {
            "queries": len(data.queries),
            "queries_of_the_protocol": expected.queries,
            "candidates": len(data.candidates),
        },
        "complete": expected.queries == len(data.queries),
        "frames": task.frames,
        "frames_of_the_protocol": expected.frames,
        "modes": {"query": signatures[0].mode, "target": signatures[1].mode},
        "max_new_tokens": budget if any(gen) else None,
        "instructions": {
            "query": task.query_instruction,
            "target": task.target_instruction,
            "digest": instruction_digest([task]),
        },
        "convention": stated(convention, signatures[0]),
        "signature": {
            side: {"digest": s.digest, **s.to_dict()}
            for side, s in zip(("query", "target"), signatures, strict=True)
        },
        "data": {
            "repo": task.source.repo,
            "config": task.source.config,
            "split": task.source.split,
            "data_path": task.data_path,
            "revision": data.revision,
            "digest": data.digest(),
            "notes": dict(data.notes),
        },
        "status": {"query": stored[0].counts(), "target": stored[1].counts()},
        "cost": {"query": stored[0].cost(), "target": stored[1].cost()},
        "versions": library_versions(),
        "per_query": [round(float(v), 6) for v in values],
    }


def write_score(folder: Path, record: dict[str, Any]) -> Path:
    """Write a score file; returns it."""
    path = folder / "scores" / f"{record['task']}.json"
    write_json(path, record)
    return path


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Score files of a run, by task.

    Raises:
        InvalidOption: there are none, or one is of another schema.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "scores").glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if record.get("schema") != SCHEMA:
            raise InvalidOption(
                f"{path} is of schema {record.get('schema')!r}, not {SCHEMA}", fix="score it again"
            )
        found[record["task"]] = record
    if not found:
        raise InvalidOption(
            f"{folder} holds no scores", fix="name the --output directory of `ume eval mmeb`"
        )
    return found


def comparable(records: dict[str, dict[str, Any]]) -> None:
    """Refuse to average what was scored differently.

    Raises:
        InvalidOption: protocol, convention, modes or ties differ between tasks.
    """
    for key in ("protocol", "convention", "modes", "ties"):
        seen: dict[str, str] = {}
        for task, record in records.items():
            value = record[key]
            if key == "ties":
                value = value["policy"]
            seen.setdefault(json.dumps(value, sort_keys=True), task)
        if len(seen) > 1:
            first, second = list(seen.values())[:2]
            raise InvalidOption(
                f"{first} and {second} differ in {key}", fix="score them again into one directory"
            )
