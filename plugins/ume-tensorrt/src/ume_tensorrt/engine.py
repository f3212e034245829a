"""The engine: disc vectors of an exported model on native TensorRT engines."""

from __future__ import annotations

import weakref
from pathlib import Path

import tensorrt as trt

from ume_core.errors import LimitExceeded
from ume_core.options import LoadOptions
from ume_qwen.exported.embedder import Export, ExportedEmbedder
from ume_qwen.exported.inputs import TEXT, VISION
from ume_tensorrt import cuda
from ume_tensorrt.manifest import read_manifest
from ume_tensorrt.names import FOLDER
from ume_tensorrt.options import TensorRTOptions
from ume_tensorrt.profiled import ProfiledRunner
from ume_tensorrt.runtime import Runtime


def create(
    model: str | Path,
    options: LoadOptions | None = None,
    engine_options: TensorRTOptions | None = None,
    *,
    unchecked: bool = False,
    folder: Path | None = None,
) -> ExportedEmbedder:
    """Load a directory that `ume export --format tensorrt` wrote.

    Engines are executable code: load those you built.

    Args:
        model: the directory.
        options: how every engine loads it.
        engine_options: how this engine computes.
        unchecked: load engines before their parity was checked; only that check itself does.
        folder: where the engines are, if not in the directory's own folder; for that check.

    Raises:
        CheckpointError: no export, no engines, or damaged ones.
        EngineUnavailable: they were built for another GPU or version, or there is no GPU.
        InvalidOption: a device that is not a GPU, or a dtype the export does not have.
        LimitExceeded: the GPU's memory does not hold engines and buffers.
    """
    options, own = options or LoadOptions(), engine_options or TensorRTOptions()
    directory = Path(model)
    engines = read_manifest(directory, folder)
    profiles = engines.parsed_profiles(directory)
    export = Export.open(model, options, unchecked=unchecked)
    device = cuda.select(options.device)
    engines.check(
        directory, export.manifest.graphs_digest, trt.__version__, device,
        folder=folder, unchecked=unchecked,
    )  # fmt: skip
    files = folder or directory / FOLDER
    try:
        runtime = Runtime(
            {graph: files / f"{graph}.plan" for graph in (VISION, TEXT)},
            export.manifest.inputs,
            profiles,
            hidden=export.checkpoint.hidden_size,
            device=cuda.number_of(options.device),
            lanes=own.streams,
            host_code=engines.version_compatible,
            capture=own.cuda_graphs,
        )
    except MemoryError as error:
        raise LimitExceeded(
            f"{error}", fix="use fewer streams, or build with smaller profiles"
        ) from error
    runner = ProfiledRunner(runtime, profiles, export.manifest.inputs, directory)
    embedder = ExportedEmbedder(
        "tensorrt",
        export,
        runner,
        options,
        uses_gpu=True,
        media_cache_bytes=own.media_cache_bytes,
    )
    weakref.finalize(embedder, runtime.close)
    return embedder
