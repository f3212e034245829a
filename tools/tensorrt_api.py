"""Type stubs of TensorRT's real bindings, where its libraries cannot be installed.

`python -m tools.tensorrt_api` writes `.cache/tensorrt/{10,11}/typings`, which pyright checks
ume-tensorrt and ume-export's builder against. PyPI's bindings are compiled and carry no types; the
libraries they link come from NVIDIA's own index. So the bindings are loaded against libraries that
have the linked names and do nothing (`.cache/tensorrt/{10,11}/bindings`), and pybind11-stubgen
reads their signatures. Where that cannot be done (no C compiler, no wheel for this platform) the
stubs say `Any`, and the reason is printed: the types were then not checked.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tools.stubs import write_stubs

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "tensorrt"
# The line that onnxruntime-gpu 1.31's TensorRT provider links, and the newest one.
VERSIONS = {"10": "10.16.1.11", "11": "11.4.0.106"}
_LIBRARIES = ("nvonnxparser", "nvinfer_plugin", "nvinfer")
# What the bindings of both lines link from those libraries (readelf); none is called here.
_SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip


def main() -> int:
    """Write the stubs of both lines that are not there yet."""
    for line, version in VERSIONS.items():
        what = f"TensorRT {version}, its bindings"
        write_stubs(CACHE / line, "tensorrt", version, what, partial(stubs, line, version))
    return 0


def stubs(line: str, version: str) -> str:
    """The stub file's text, read from the real bindings.

    Raises:
        OSError, CalledProcessError: no wheel, no compiler, or they do not load.
    """
    work = CACHE / line / "bindings"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    package = f"tensorrt-cu13-bindings=={version}"
    uv = Path(sys.executable).with_name("uv")
    _run([str(uv), "pip", "install", "--quiet", "--no-deps", "--target", str(work),
          package])  # fmt: skip
    source = work / "nothing.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in _SYMBOLS), "utf-8")
    for library in _LIBRARIES:
        name = f"lib{library}.so.{line}"
        _run(["cc", "-w", "-shared", "-fPIC", str(source), "-o", str(work / name),
              f"-Wl,-soname,{name}"])  # fmt: skip
    paths = {"LD_LIBRARY_PATH": str(work), "PYTHONPATH": str(work / "tensorrt_bindings")}
    _run([sys.executable, "-m", "pybind11_stubgen", "tensorrt", "-o", str(work),
          "--ignore-all-errors"], paths)  # fmt: skip
    # As NVIDIA's `tensorrt` package does.
    (work / "tensorrt").mkdir()
    (work / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n", "utf-8"
    )
    return _mended((work / "tensorrt.pyi").read_text("utf-8"))


def _mended(text: str) -> str:
    """Signatures that Python's grammar does not have, made valid without losing types."""
    text = re.sub(r"\bin: ", "in_: ", text)
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("def "):
            try:
                ast.parse(line.strip() + (" ..." if line.rstrip().endswith(":") else ""))
            except SyntaxError:  # an argument without a default behind one that has it
                line = re.sub(r"(: [^,()=]+)(?=[,)])", r"\1 = ...", line)
        lines.append(line)
    ast.parse("\n".join(lines))
    version = "\n__version__: str\n"
    return "\n".join(lines) + version


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        command, check=True, capture_output=True, text=True,
        env=os.environ | (environment or {}), cwd=ROOT,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
