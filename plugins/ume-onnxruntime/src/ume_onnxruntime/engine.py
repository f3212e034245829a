"""The engine: disc vectors of an exported model, without torch."""

from __future__ import annotations

from pathlib import Path

from ume_core.errors import InvalidOption
from ume_core.loading import LoadOptions
from ume_core.qwen.exported import ExportedEmbedder
from ume_core.qwen.graphs import TEXT, VISION, Arrays, Floats
from ume_onnxruntime.sessions import Graph, choose_provider


class OnnxEmbedder(ExportedEmbedder):
    """An exported directory on ONNX Runtime. Thread-safe.

    Attributes:
        provider: where it runs.
    """

    name = "onnxruntime"

    def __init__(
        self, model: str | Path, options: LoadOptions | None = None, *, unchecked: bool = False
    ) -> None:
        """Load a directory that `ume export` wrote.

        Args:
            unchecked: load it before its parity was checked; only that check itself does.

        Raises:
            CheckpointError: it is none, or damaged. InvalidOption: the provider cannot be had or
                does not compute the export's precision, or another dtype was asked for.
        """
        options = options or LoadOptions()
        self.provider = choose_provider(options.provider, options.device)
        self.uses_gpu = self.provider != "cpu"
        super().__init__(model, options, unchecked=unchecked)
        if self.provider == "cpu" and self.manifest.precision == "bfloat16":
            raise InvalidOption(
                f"{self.directory} is bfloat16, which ONNX Runtime cannot multiply on a CPU",
                fix="use device='cuda' or engine='tensorrt', or export with --precision float32",
            )
        if self.uses_gpu:  # larger products pay there
            self.pack_tokens = 2048
        cache = self.directory / "engines"
        folder = self.directory / "onnx"
        self._graphs = {
            graph: Graph(folder / f"{graph}.onnx", self.provider, options.device, cache)
            for graph in (VISION, TEXT)
        }

    def arithmetic(self, precision: str) -> str:
        """TensorRT's provider makes TF32 of float32 products."""
        tf32 = self.provider == "tensorrt" and precision == "float32"
        return "float32-tf32" if tf32 else precision

    def run_graph(self, graph: str, arrays: Arrays) -> Floats:
        """One graph's output; ONNX Runtime's sessions are thread-safe."""
        return self._graphs[graph](arrays)

    def is_out_of_memory(self, error: Exception) -> bool:
        """ONNX Runtime says so in words only."""
        words = str(error).lower()
        return "failed to allocate" in words or "bad_alloc" in words


def create(model: str | Path, options: LoadOptions) -> OnnxEmbedder:
    """The factory `ume_backends` names."""
    return OnnxEmbedder(model, options)
