"""`ume export`: runs ume-export in the environment that has Optimum, or TensorRT."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from ume_core.errors import EngineUnavailable
from ume_core.loading import locate

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, and where."""
    parser.add_argument("model", help="alias, checkpoint directory or hub id")
    parser.add_argument("directory", type=Path, nargs="?", help="a new directory; none, to build "
                        "engines in MODEL, an exported directory")  # fmt: skip
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--opset", type=int, default=20)
    parser.add_argument("--engine", default="onnx", choices=("onnx", "tensorrt"),
                        help="tensorrt: also build engines, on this GPU")  # fmt: skip
    parser.add_argument("--profiles", default="low-latency",
                        help="tensorrt: low-latency, throughput or a JSON file")  # fmt: skip
    parser.add_argument("--version-compatible", action="store_true",
                        help="tensorrt: engines for newer releases, too")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Find or make the environment, and export there."""
    location, alias = locate(args.model)
    directory = alias is None and Path(args.model).is_dir()
    name = Path(args.model).resolve().name if directory else args.model
    command = [
        str(find_python()), "-m", "ume_export", str(location),
        *([str(args.directory.absolute())] if args.directory else []),
        "--name", name, "--precision", args.precision, "--opset", str(args.opset),
        "--engine", args.engine, "--profiles", args.profiles,
        *(["--version-compatible"] if args.version_compatible else []),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal told the child too; it cleans up, however long
            continue


def find_python() -> Path:
    """Python of the export environment: UME_EXPORT_PYTHON, this one, or the clone's own.

    Raises:
        EngineUnavailable: there is none, and no clone to make it from.
    """
    named = os.environ.get("UME_EXPORT_PYTHON")
    if named:
        if not Path(named).is_file():
            raise EngineUnavailable(
                f"UME_EXPORT_PYTHON names {named}, which is no file",
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
