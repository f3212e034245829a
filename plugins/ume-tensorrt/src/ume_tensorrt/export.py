"""The format `tensorrt`: an ONNX export, and engines built from it on this machine's GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ume_core.errors import InvalidOption
from ume_qwen.exported.environment import run_exporter
from ume_qwen.formats import has_weights_beside

PRECISIONS = ("float32", "bfloat16", "float16")  # int8 exports hold ONNX Runtime's own operators


@dataclass(frozen=True)
class TensorRTExportOptions:
    """How graphs and engines are made.

    Attributes:
        precision: `float32`, `bfloat16` or `float16`; of a directory exported before, its own.
        opset: version of ONNX's operators.
        profiles: `low-latency`, `throughput` or a JSON file (see `ume_tensorrt.profiles`).
        device: `auto`, `cuda` or `cuda:N`.
        workspace: bytes TensorRT may use for one layer.
        version_compatible: newer TensorRT of this major version may load the engines; they carry a
            lean runtime, which is code, and may be slower.
    """

    precision: str = "float32"
    opset: int = 20
    profiles: str = "low-latency"
    device: str = "auto"
    workspace: int = 8 << 30
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidOption(
                f"unknown precision {self.precision!r}", fix=f"use one of: {', '.join(PRECISIONS)}"
            )


def run(
    model: str | Path, name: str, directory: Path | None, options: TensorRTExportOptions
) -> None:
    """The function `ume_exporters` names; without a directory, `model` is an export itself."""
    if directory is None and has_weights_beside(model):
        raise InvalidOption("no directory was named", fix="run: ume export MODEL DIRECTORY")
    run_exporter("tensorrt", model, name, directory, options)
