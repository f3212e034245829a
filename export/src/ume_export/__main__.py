"""`python -m ume_export FORM MODEL DIRECTORY`; `ume export` runs it in this environment."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ume_core.errors import EngineUnavailable, InvalidOption, UmeError
from ume_core.options import make_options
from ume_core.terminal import escape_missing_characters, system_fix
from ume_export.export import export
from ume_onnxruntime.export import OnnxExportOptions
from ume_tensorrt.export import TensorRTExportOptions

FORMS = {"onnx": OnnxExportOptions, "tensorrt": TensorRTExportOptions}


def main() -> int:
    """Returns the exit status (0 done, 2 error)."""
    parser = argparse.ArgumentParser(prog="ume_export", description=__doc__)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("model")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--name")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON of the form's options")
    escape_missing_characters()
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        _run(args)
    except UmeError as error:
        print(f"ume export: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ume export: {error}. Fix: {system_fix(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ume export: interrupted, nothing half-made is left", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    options = make_options(f"{args.form} format", FORMS[args.form], args.options)
    build = _builder(options) if isinstance(options, TensorRTExportOptions) else None
    directory: Path | None = args.directory
    if directory is not None:
        manifest = export(
            args.model, directory, name=args.name, precision=options.precision, opset=options.opset
        )
        print(f"{directory}: {manifest.precision}, opset {manifest.opset}; "
              f"{_figures(manifest.parity, 'ume-torch')}")  # fmt: skip
    elif build is None:
        raise InvalidOption("no directory was named", fix="run: ume export MODEL DIRECTORY")
    if build is not None:
        directory = directory or Path(args.model)
        built = build(directory)
        print(f"{directory}: engines of TensorRT {built.tensorrt} for {built.device['name']}; "
              f"{_figures(built.parity, 'ONNX Runtime')}")  # fmt: skip


def _builder(options: TensorRTExportOptions) -> Any:
    """The builder, once what it needs is there: before an export spends its minutes.

    Raises:
        EngineUnavailable: no TensorRT, or no GPU.
        InvalidOption: wrong profiles.
    """
    try:
        from ume_tensorrt.profiles import load_profiles

        load_profiles(options.profiles)
        from ume_export.tensorrt import build
        from ume_tensorrt import cuda
    except ImportError as error:
        raise EngineUnavailable(
            f"TensorRT cannot be loaded: {error}",
            fix=f"{sys.executable} -m pip install tensorrt-cu13==10.16.1.11 cuda-bindings, on a "
            "machine with an NVIDIA GPU",
        ) from error
    cuda.select(options.device)
    return partial(
        build, profiles=options.profiles, device=options.device, workspace=options.workspace,
        version_compatible=options.version_compatible,
    )  # fmt: skip


def _figures(parity: dict[str, Any], reference: str) -> str:
    return (
        f"largest difference from {reference} {parity['max_difference']:.1e} (bound "
        f"{parity['bound']:.0e}), least cosine {parity['cosine']:.6f}"
    )


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
