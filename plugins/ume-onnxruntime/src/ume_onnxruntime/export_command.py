"""`ume export`: runs ume-export in the environment that has Optimum."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from ume_core.errors import EngineUnavailable
from ume_core.plugins import registry, resolve

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, and where."""
    parser.add_argument("model", help="alias, checkpoint directory or hub id")
    parser.add_argument("directory", type=Path, help="a new directory")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--opset", type=int, default=20)


def run(args: argparse.Namespace) -> int:
    """Find or make the environment, and export there."""
    alias = registry().models.get(args.model)
    location, name = args.model, Path(args.model).name if Path(args.model).is_dir() else args.model
    if alias is not None:
        name = alias.name
        found = alias.location
        location = str(resolve(found)()) if ":" in found else found
    command = [
        str(find_python()), "-m", "ume_export", str(location), str(args.directory.absolute()),
        "--name", name, "--precision", args.precision, "--opset", str(args.opset),
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


def find_python() -> Path:
    """Python of the export environment: UME_EXPORT_PYTHON, this one, or the clone's own.

    Raises:
        EngineUnavailable: there is none, and no clone to make it from.
    """
    named = os.environ.get("UME_EXPORT_PYTHON")
    if named:
        return Path(named)
    if _can_export(Path(sys.executable)):
        return Path(sys.executable)
    for parent in Path(__file__).resolve().parents:
        setup = parent / "tools" / "setup"
        if setup.is_file() and (parent / "export").is_dir():
            subprocess.run([str(setup), "export"], check=True)
            return parent / ".venv-export" / "bin" / "python"
    raise EngineUnavailable(
        "ume-export needs an environment of its own (Optimum's exporter pins transformers 4.57)",
        fix="python -m venv export-env && export-env/bin/pip install ume-export, then "
        "UME_EXPORT_PYTHON=export-env/bin/python ume export ...",
    )


def _can_export(python: Path) -> bool:
    code = "import ume_export, optimum.exporters.onnx"
    done = subprocess.run([str(python), "-c", code], capture_output=True, check=False)
    return done.returncode == 0
