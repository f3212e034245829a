"""Annotation tables on disk, as `hf download --local-dir` leaves them. Nothing is fetched here."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidOption
from ume_eval.tasks import Source, Task

FOLDER = "annotations"
BEIR = ("queries", "qrels", "corpus")


@dataclass(frozen=True)
class Annotations:
    """The annotation tables of one data directory.

    Attributes:
        data: the data directory; tables are in `annotations/<owner>/<name>` below it.
        cache: where `datasets` keeps its Arrow copies; None takes its own default.
    """

    data: Path
    cache: Path | None = None

    def folder(self, source: Source) -> Path:
        """Where a data set is expected."""
        return self.data / FOLDER / source.repo

    def rows(self, task: Task) -> list[dict[str, Any]]:
        """The scored rows of a task that has one table.

        Raises:
            InvalidOption: the table is missing or malformed.
        """
        if task.data_path is not None:
            rows = list(_json_lines(self.data / task.data_path))
        else:
            rows = list(self.table(task.source, task.source.config))
        return rows if task.first_rows is None else rows[: task.first_rows]

    def table(self, source: Source, config: str | None) -> Any:
        """A `datasets.Dataset`; pictures in it stay encoded.

        Raises:
            InvalidOption: it is missing or malformed.
        """
        import datasets

        folder = self.folder(source)
        if not folder.is_dir():
            raise InvalidOption(
                f"the annotations {source.repo} are not in {folder}", fix=download(source, folder)
            )
        cache = str(self.cache) if self.cache else None
        try:
            with quiet():
                table = datasets.load_dataset(
                    str(folder), config, split=source.split, cache_dir=cache
                )
        except Exception as error:  # whatever a foreign file makes the library raise
            raise InvalidOption(
                f"{folder} has no readable {config or 'default'} / {source.split}: {error}",
                fix=f"delete the folder, then: {download(source, folder)}",
            ) from error
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
        return table

    def revision(self, source: Source) -> str | None:
        """The commit that `hf download` noted beside its files; None if it did not make them."""
        notes = self.folder(source) / ".cache" / "huggingface" / "download"
        commits = {p.read_text("utf-8").split("\n", 1)[0] for p in notes.rglob("*.metadata")}
        return commits.pop() if len(commits) == 1 else None


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without the progress bars of `datasets`, which belong to the process."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def download(source: Source, folder: Path) -> str:
    """The command that brings a data set."""
    pin = f" --revision {source.revision}" if source.revision else ""
    return f"hf download {source.repo} --repo-type dataset{pin} --local-dir {folder}"


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as error:
        raise InvalidOption(
            f"cannot read {path}: {error}", fix="check data_path in the configuration"
        ) from error


def column(row: dict[str, Any], name: str, task: Task) -> Any:
    """A value of a row.

    Raises:
        InvalidOption: the table has no such column.
    """
    try:
        return row[name]
    except KeyError:
        raise InvalidOption(
            f"{task.name}: its annotations have no column {name!r} (they have {', '.join(row)})",
            fix="use the revision that `ume eval tasks` names",
        ) from None
