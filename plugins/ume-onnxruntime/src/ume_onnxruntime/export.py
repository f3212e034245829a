"""The format `onnx`: the disc encoder as two ONNX graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_qwen.exported.environment import run_exporter

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class OnnxExportOptions:
    """How the graphs are made.

    Attributes:
        precision: `float32`, `bfloat16`, `float16` or `int8`.
        opset: version of ONNX's operators.
    """

    precision: str = "float32"
    opset: int = 20

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidOption(
                f"unknown precision {self.precision!r}", fix=f"use one of: {', '.join(PRECISIONS)}"
            )


def run(model: str | Path, name: str, directory: Path | None, options: OnnxExportOptions) -> None:
    """The function `ume_exporters` names."""
    if directory is None:
        raise InvalidOption("no directory was named", fix="run: ume export MODEL DIRECTORY")
    run_exporter("onnx", model, name, directory, options)
