"""The engine: disc vectors of built TensorRT engines, without torch."""

from __future__ import annotations

import weakref
from pathlib import Path

import tensorrt as trt

from ume_core.errors import InvalidOption, LimitExceeded
from ume_core.loading import LoadOptions
from ume_core.qwen.graphs import ENGINES, TEXT, VISION, Arrays, Floats
from ume_tensorrt import cuda
from ume_tensorrt.manifest import read_manifest
from ume_tensorrt.planned import PlannedEmbedder
from ume_tensorrt.profiles import Point
from ume_tensorrt.runtime import Runtime


class TensorRTEmbedder(PlannedEmbedder):
    """An exported directory with built engines. Thread-safe.

    Attributes:
        engines: what the engines say about themselves. runtime: the loaded engines.
    """

    name = "tensorrt"
    uses_gpu = True

    def __init__(
        self,
        model: str | Path,
        options: LoadOptions | None = None,
        *,
        unchecked: bool = False,
        folder: Path | None = None,
    ) -> None:
        """Load a directory that `ume export … --engine tensorrt` wrote.

        Engines are executable code: load those you built.

        Args:
            unchecked: load them before their parity was checked; only that check itself does.
            folder: where the engines are, if not in the directory's own folder; for that check.

        Raises:
            CheckpointError: no export, no engines, or damaged ones.
            EngineUnavailable: they were built for another GPU or version; no GPU.
            InvalidOption: a device that is no GPU, or a dtype the export does not have.
            LimitExceeded: the GPU's memory does not hold engines and buffers.
        """
        options = options or LoadOptions()
        if options.provider != "auto":
            raise InvalidOption(
                "provider is ONNX Runtime's", fix="leave it out, or use engine='onnxruntime'"
            )
        if options.streams < 1:
            raise InvalidOption(f"streams is {options.streams}", fix="pass a number from 1")
        self.engines = read_manifest(Path(model), folder)
        profiles = self.engines.parsed_profiles(Path(model))
        super().__init__(model, options, profiles=profiles, unchecked=unchecked)
        device = cuda.select(options.device)
        self.engines.check(
            self.directory, self.manifest.graphs, trt.__version__, device,
            folder=folder, unchecked=unchecked,
        )  # fmt: skip
        plans = folder or self.directory / ENGINES
        try:
            self.runtime = Runtime(
                {graph: plans / f"{graph}.plan" for graph in (VISION, TEXT)},
                self.manifest.inputs,
                profiles,
                hidden=self.dimensions,
                device=cuda.number_of(options.device),
                lanes=options.streams,
                host_code=self.engines.version_compatible,
            )
        except MemoryError as error:
            raise LimitExceeded(
                f"{error}", fix="use fewer streams, or build with smaller profiles"
            ) from error
        weakref.finalize(self, self.runtime.close)

    def run_point(self, graph: str, point: Point, arrays: Arrays) -> Floats:
        """On a free lane."""
        return self.runtime.run(graph, point, arrays)

    def is_out_of_memory(self, error: Exception) -> bool:
        """CUDA's is raised as MemoryError, which all exported engines know."""
        del error
        return False


def create(model: str | Path, options: LoadOptions) -> TensorRTEmbedder:
    """The factory `ume_backends` names."""
    return TensorRTEmbedder(model, options)
