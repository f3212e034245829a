"""Put ume-nano's exported graphs beside its weights: `python -m tools.nano.graphs`.

Runs `ume export` in export's environment, whose parity check has to pass, and takes the graphs and
the manifest; everything else of an export stands there already. To be run whenever the weights,
the tokenizer or the settings change: the test of ume-nano's digest says so.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import ume_nano
from ume_onnxruntime.export import OnnxExportOptions
from ume_qwen.exported.environment import run_exporter
from ume_qwen.formats import MANIFEST


def main() -> None:
    """Export and copy."""
    target = ume_nano.path()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "nano"
        run_exporter("onnx", target, "ume-nano", made, OnnxExportOptions())
        shutil.rmtree(target / "onnx", ignore_errors=True)
        shutil.copytree(made / "onnx", target / "onnx")
        shutil.copy(made / MANIFEST, target / MANIFEST)


if __name__ == "__main__":
    main()
