"""Type stubs of the part of SGLang that ume-sglang calls, read from its wheel's sources.

`python -m tools.sglang_api` writes `.cache/sglang/typings`, which pyright checks ume-sglang
against: SGLang installs with CUDA only, `Engine` itself takes `**kwargs`, and its sampling
parameters are a plain dict. Here they have the names and types that its sources state. Where the
wheel cannot be had the stubs say `Any`, and the reason is printed: nothing was checked then.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.stubs import write_stubs

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "sglang"
VERSION = "0.5.23"  # as ume-sglang's README and messages name it
# Wheels differ by Python and platform in their compiled parts only.
_WHEEL = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_34")
_KNOWN = {
    "Any", "AsyncIterator", "Dict", "List", "Literal", "Optional", "SamplingParams", "Set", "Tuple",
    "Union", "bool", "bytes", "dict", "float", "int", "list", "str", "tuple",
}  # fmt: skip
_HEAD = """from collections.abc import AsyncIterator
from typing import Any, Dict, List, Literal, Optional, Set, Tuple, TypedDict, Union
"""


def main() -> int:
    """Write the stubs, unless they are there."""
    write_stubs(CACHE, "sglang", VERSION, f"SGLang {VERSION}, its wheel", fetched)
    return 0


def fetched() -> str:
    """The stub file's text, of a wheel that is there for as long as it is read.

    Raises:
        OSError, CalledProcessError: it cannot be had.
    """
    wheel = CACHE / "wheel"
    shutil.rmtree(wheel, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--quiet", "--no-deps", *_WHEEL, "--target", str(wheel)]
    try:
        subprocess.run(
            [*command, f"sglang=={VERSION}"], check=True, capture_output=True, text=True, cwd=ROOT
        )
        return stubs(wheel / "sglang" / "srt")
    finally:
        shutil.rmtree(wheel, ignore_errors=True)


def stubs(sources: Path) -> str:
    """The stub file's text.

    Args:
        sources: the folder `sglang/srt`.
    """
    arguments: dict[str, str] = {}
    for path in sorted((sources / "arg_groups" / "fields").glob("*.py")):
        for item in ast.walk(_parsed(path)):
            if isinstance(item, ast.ClassDef):
                arguments |= _fields(item, {})
    sampling = _class(_parsed(sources / "sampling" / "sampling_params.py"), "SamplingParams")
    aliases: dict[str, ast.expr] = {}
    for name in ("io_struct.py", "schedule_batch.py"):
        for item in _parsed(sources / "managers" / name).body:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                aliases[item.targets[0].id] = item.value
    engine = _class(_parsed(sources / "entrypoints" / "engine.py"), "Engine")
    lines = [_HEAD, "class SamplingParams(TypedDict, total=False):"]
    lines += [f"    {name}: {kind}" for name, kind in _fields(sampling, aliases).items()]
    lines += ["", "class Engine:", "    def __init__(", "        self,", "        *,"]
    lines += [f"        {name}: {kind} = ...," for name, kind in sorted(arguments.items())]
    lines += ["    ) -> None: ...", f"    {_method(engine, 'async_generate', aliases)}"]
    text = "\n".join(lines) + "\n"
    ast.parse(text)
    return text


def _fields(item: ast.ClassDef, aliases: Mapping[str, ast.expr]) -> dict[str, str]:
    """Names and types of a class's fields; SGLang writes those of arguments as `A[type, help]`."""
    found: dict[str, str] = {}
    for field in item.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            kind = field.annotation
            if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "A":
                assert isinstance(kind.slice, ast.Tuple)
                kind = kind.slice.elts[0]
            if not field.target.id.startswith("_"):
                found[field.target.id] = _type(kind, aliases)
    return found


def _method(item: ast.ClassDef, name: str, aliases: Mapping[str, ast.expr]) -> str:
    """A method's signature."""
    for method in item.body:
        if isinstance(method, ast.AsyncFunctionDef) and method.name == name:
            for argument in (*method.args.args[1:], *method.args.kwonlyargs):
                kind = _type(argument.annotation, aliases)
                if argument.arg == "sampling_params":
                    kind = re.sub(r"\bDict\b", "SamplingParams", kind)
                argument.annotation = ast.parse(kind, mode="eval").body
            method.returns = ast.parse(_type(method.returns, aliases), mode="eval").body
            method.body = [ast.Expr(ast.Constant(...))]
            return ast.unparse(method).replace("\n", "")
    raise OSError(f"SGLang's {item.name} has no {name}")


def _type(kind: ast.expr | None, aliases: Mapping[str, ast.expr]) -> str:
    """A type's text, aliases resolved; `Any` for what is not Python's own."""
    if kind is None:
        return "Any"
    if isinstance(kind, ast.Name) and kind.id not in _KNOWN:
        return _type(aliases[kind.id], aliases) if kind.id in aliases else "Any"
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) != "Literal":
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        outer = _type(kind.value, aliases)
        if outer == "Any":
            return outer
        return f"{outer}[{', '.join(_type(part, aliases) for part in inner)}]"
    return ast.unparse(kind) if isinstance(kind, ast.Name | ast.Subscript | ast.Constant) else "Any"


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    for item in module.body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return item
    raise OSError(f"SGLang's sources have no class {name}")


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(main())
