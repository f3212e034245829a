"""Data sets as the hub lays them out: Parquet files and a README that names configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ume_eval.data.annotations import FOLDER, quiet
from ume_eval.tasks import Source


def write_set(data: Path, source: Source, configs: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write a data set's configurations; `default` is the name of an only one."""
    import datasets

    folder = data / FOLDER / source.repo
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for name, rows in configs.items():
        table = datasets.Dataset.from_list(list(rows))
        if "image" in table.column_names:
            table = table.cast_column("image", datasets.Image())
        path = folder / name / f"{source.split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        with quiet():
            table.to_parquet(str(path))
        files = [{"split": source.split, "path": f"{name}/{source.split}-*"}]
        entries.append({"config_name": name, "data_files": files})
    head = yaml.safe_dump({"configs": entries}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{head}---\nMade by ume-eval.\n", "utf-8")
