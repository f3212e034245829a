"""The engine: disc vectors of an exported model, without torch."""

from __future__ import annotations

from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.options import LoadOptions
from ume_onnxruntime.options import OnnxOptions
from ume_onnxruntime.sessions import Graph, choose_provider
from ume_qwen.exported.embedder import Export, ExportedEmbedder, PackSizes
from ume_qwen.exported.inputs import TEXT, VISION, Arrays, Floats


class OnnxRunner:
    """The graphs of an export on ONNX Runtime. Thread-safe, as its sessions are.

    Attributes:
        provider: where they run.
        pack_tokens: see `GraphRunner.pack_tokens`.
    """

    def __init__(self, directory: Path, provider: str, device: str, pack_tokens: int) -> None:
        """Load the graphs.

        Raises:
            CheckpointError: a graph is damaged.
            InvalidOption: the provider does not run it here.
        """
        self.provider, self.pack_tokens = provider, pack_tokens
        cache = directory / "engines"
        self._graphs = {
            graph: Graph(directory / "onnx" / f"{graph}.onnx", provider, device, cache)
            for graph in (VISION, TEXT)
        }

    def run(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output."""
        return self._graphs[graph](arrays)

    def fits(self, sizes: PackSizes) -> bool:  # noqa: ARG002
        """Any sizes; memory shows whether they fit."""
        return True

    def check(self, sizes: PackSizes) -> None:
        """Any sizes."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """ONNX Runtime says so in words only."""
        words = str(error).lower()
        return "failed to allocate" in words or "bad_alloc" in words


def create(
    model: str | Path,
    options: LoadOptions | None = None,
    engine_options: OnnxOptions | None = None,
    *,
    unchecked: bool = False,
) -> ExportedEmbedder:
    """Load a directory that `ume export` wrote.

    Args:
        model: the directory.
        options: how every engine loads it.
        engine_options: how this engine computes.
        unchecked: load it before its parity was checked; only that check itself does.

    Raises:
        CheckpointError: it is not an export, or it is damaged.
        InvalidOption: the provider is not available or does not compute the export's precision, or
            another dtype was asked for.
    """
    options, own = options or LoadOptions(), engine_options or OnnxOptions()
    provider = choose_provider(own.provider, options.device)
    export = Export.open(model, options, unchecked=unchecked)
    precision = export.manifest.precision
    if provider == "cpu" and precision == "bfloat16":
        raise InvalidOption(
            f"{export.directory} is bfloat16, which ONNX Runtime cannot multiply on a CPU",
            fix="use device='cuda' or engine='tensorrt', or export with -o precision=float32",
        )
    pack_tokens = own.pack_tokens or (512 if provider == "cpu" else 2048)
    # TensorRT's provider makes TF32 of float32 products.
    tf32 = provider == "tensorrt" and precision == "float32"
    return ExportedEmbedder(
        "onnxruntime",
        export,
        OnnxRunner(export.directory, provider, options.device, pack_tokens),
        options,
        arithmetic="float32-tf32" if tf32 else precision,
        uses_gpu=provider != "cpu",
        media_cache_bytes=own.media_cache_bytes,
    )
