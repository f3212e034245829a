"""Running ume-export in its own environment, whose versions Optimum's exporter pins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ume_core.errors import EngineUnavailable, UmeError


def run_exporter(
    form: str, model: str | Path, name: str, directory: Path | None, options: Any
) -> None:
    """Export in the environment that has Optimum, or TensorRT, and wait for it.

    Args:
        form: `onnx` or `tensorrt`.
        model: a checkpoint directory, a hub id or (TensorRT alone) an exported directory.
        name: the model's name, for signatures.
        directory: a new directory; None to build engines in an exported `model`.
        options: a dataclass of the format's own options.

    Raises:
        EngineUnavailable: there is no such environment.
        ExportFailed: the exporter said why and left nothing behind.
    """
    command = [
        str(find_python()), "-m", "ume_export", form, str(model),
        *([str(directory.absolute())] if directory else []),
        "--name", name, "--options", json.dumps(asdict(options)),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:  # the terminal told the child too; it cleans up, however long
            continue
    if status:
        raise ExportFailed(status)


class ExportFailed(UmeError):
    """The exporter ended without an export; it has said why.

    Attributes:
        status: its exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__("the exporter stopped", fix="see its message above")
        self.status = status


def find_python() -> Path:
    """Python of the export environment: UME_EXPORT_PYTHON, this one, or the clone's own.

    Raises:
        EngineUnavailable: there is none, and no clone to make it from.
    """
    named = os.environ.get("UME_EXPORT_PYTHON")
    if named:
        if not Path(named).is_file():
            raise EngineUnavailable(
                f"UME_EXPORT_PYTHON names {named}, which is not a file",
                fix="name the export environment's bin/python",
            )
        return Path(named)
    if _can_export(Path(sys.executable)):
        return Path(sys.executable)
    for parent in Path(__file__).resolve().parents:
        setup = parent / "tools" / "setup"
        if setup.is_file() and (parent / "export").is_dir():
            if subprocess.run([str(setup), "export"], check=False).returncode:
                raise EngineUnavailable(
                    "the export environment could not be set up", fix=f"run {setup} export"
                )
            return parent / ".venv-export" / "bin" / "python"
    raise EngineUnavailable(
        "ume-export needs an environment of its own (Optimum's exporter pins transformers 4.57)",
        fix="in a clone of the project run tools/setup export, then "
        "UME_EXPORT_PYTHON=CLONE/.venv-export/bin/python ume export ...",
    )


def _can_export(python: Path) -> bool:
    code = "import ume_export, optimum.exporters.onnx"
    done = subprocess.run([str(python), "-c", code], capture_output=True, check=False)
    return done.returncode == 0
