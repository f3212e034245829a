"""`python -m ume_export MODEL DIRECTORY`; `ume export` runs it in this environment."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from ume_core.errors import UmeError
from ume_export.configs import OPSET
from ume_export.export import export
from ume_export.parity import BOUNDS


def main() -> int:
    """Returns the exit status (0 done, 2 error)."""
    parser = argparse.ArgumentParser(prog="ume_export", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--precision", default="float32", choices=sorted(BOUNDS))
    parser.add_argument("--opset", type=int, default=OPSET)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        manifest = export(
            args.model, args.directory, name=args.name, precision=args.precision, opset=args.opset
        )
    except UmeError as error:
        print(f"ume export: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ume export: {error}. Fix: check the disk and the directory", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ume export: interrupted, nothing was written", file=sys.stderr)
        return 130
    parity = manifest.parity
    print(
        f"{args.directory}: {manifest.precision}, opset {manifest.opset}; largest difference from "
        f"ume-torch {parity['max_difference']:.1e} (bound {parity['bound']:.0e}), least cosine "
        f"{parity['cosine']:.6f}"
    )
    return 0


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
