"""`ume_export.json`: what an exported directory says about itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ume_core.errors import CheckpointError
from ume_core.qwen.digests import files_digest
from ume_core.qwen.graphs import MANIFEST

FORMAT = 3  # 1 had padded prompts, 2 no prefix


@dataclass(frozen=True)
class Manifest:
    """An export.

    Attributes:
        model: the name it was exported from. weights: digest of the checkpoint, so
            that float32 vectors compare with ume-torch's. precision: of the graphs (`float32`,
            `bfloat16`, `float16` or `int8`). opset: of the graphs.
        inputs: per graph, its inputs' names, element types and axes (numbers are fixed).
        prefix: whose keys and values the text graph holds (JSON of `ume_core.qwen.prefix.Prefix`).
        graphs: digest of the graph files (see `files_digest`).
        parity: what the export measured (see ume-export).
        versions: of what made it.
    """

    model: str
    weights: str
    precision: str
    opset: int
    inputs: dict[str, dict[str, list[Any]]]
    prefix: dict[str, Any]
    graphs: str
    parity: dict[str, Any]
    versions: dict[str, str]
    format: int = FORMAT

    def write(self, directory: Path) -> None:
        """Into `directory`."""
        text = json.dumps(asdict(self), indent=1)
        (directory / MANIFEST).write_text(text, "utf-8")

    @classmethod
    def read(cls, directory: Path, *, unchecked: bool = False) -> Manifest:
        """The manifest of an exported directory.

        Args:
            unchecked: accept one whose parity has not passed (the parity check itself does).

        Raises:
            CheckpointError: there is none, or another version wrote it, or it failed its checks.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise CheckpointError(
                f"{directory} is no exported model: it has no {MANIFEST}",
                fix=f"run: ume export {directory.name or 'MODEL'} DIR, and load DIR",
            )
        try:
            given = json.loads(path.read_text("utf-8"))
            written = given["format"]
            # Another version's has other fields, so this comes first.
            found = cls(**given) if written == FORMAT else None
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: {error}", fix="export again") from error
        if found is None:
            raise CheckpointError(
                f"{path} has format {written}; this version reads {FORMAT}", fix="export again"
            )
        if unchecked:
            return found
        parity = cast(object, found.parity)  # whatever the file holds
        if not isinstance(parity, dict) or found.parity.get("passed") is not True:
            raise CheckpointError(f"{path} does not say that parity passed", fix="export again")
        if files_digest(sorted((directory / "onnx").iterdir())) != found.graphs:
            raise CheckpointError(
                f"the graphs in {directory} are not those that were checked", fix="export again"
            )
        return found
