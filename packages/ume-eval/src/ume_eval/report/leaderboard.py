"""The file that the leaderboard takes: a pull request to the space TIGER-Lab/MMEB-Leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ume_core.errors import InvalidOption
from ume_eval.tasks import Task

PROTOCOL = "v2.1"


def leaderboard(
    records: Mapping[str, dict[str, Any]], table: Sequence[Task], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """`{"metadata": ..., "metrics": {modality: {task: {metric: value}}}}`.

    Args:
        records: score files by task.
        table: the 78 tasks.
        metadata: `model_name`, `model_size`, `url` and others, as the leaderboard names them.

    Raises:
        InvalidOption: tasks are missing, incomplete, or of another protocol.
    """
    missing = [t.name for t in table if t.name not in records]
    if missing:
        raise InvalidOption(
            f"{len(missing)} of {len(table)} tasks are not scored, such as {missing[0]}",
            fix="score them; the leaderboard averages whatever it is given",
        )
    for name, record in records.items():
        if record["protocol"]["name"] != PROTOCOL or not record["complete"]:
            raise InvalidOption(
                f"{name} is not a complete {PROTOCOL} score", fix=f"score it with {PROTOCOL}"
            )
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for task in table:
        record = records[task.name]
        values = {**record["metrics"], "num_pred": record["rows"]["queries"]}
        values["num_data"] = record["rows"]["queries"]
        metrics.setdefault(task.modality, {})[task.key] = values
    first = next(iter(records.values()))
    given = {
        "model_name": first["signature"]["query"]["model"],
        "embedding_dimension": first["signature"]["query"]["dimensions"],
        "report_generated_date": date.today().isoformat(),
        "data_source": "Self-Reported",
    }
    return {"metadata": {**given, **metadata}, "metrics": metrics}
