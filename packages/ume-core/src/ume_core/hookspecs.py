"""The hooks a plugin may implement. All return light specs; heavy imports happen in factories."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pluggy

from ume_core.signature import Mode

GROUP = "ume"  # entry-point group
hookspec = pluggy.HookspecMarker("ume")
hookimpl = pluggy.HookimplMarker("ume")


@dataclass(frozen=True)
class BackendSpec:
    """An engine.

    Attributes:
        factory: `module:function`, called as `function(model, options)` -> Embedder, where `model`
            is a name, path or hub id and `options` a `ume_core.loading.LoadOptions`.
        requires: modules it needs; install: the command that brings them.
        gpu: it needs an NVIDIA GPU.
        priority: `auto` takes the available engine that has the highest.
        serves: what it loads: `checkpoint` directories and hub ids, an `export`ed directory, or one
            with TensorRT `engines` built in it.
    """

    name: str
    modes: frozenset[Mode]
    factory: str
    description: str
    requires: tuple[str, ...] = ()
    install: str = ""
    priority: int = 0
    serves: Literal["checkpoint", "export", "engines"] = "checkpoint"
    gpu: bool = False

    def missing(self) -> str | None:
        """Why it cannot be used here, or None."""
        absent = [m for m in self.requires if not _is_there(m)]
        if absent:
            return f"needs {', '.join(absent)} ({self.install})"
        return "needs an NVIDIA GPU" if self.gpu and not has_gpu() else None


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a device: Linux' own, or WSL's."""
    # A container may hold any one of a machine's devices, so not by the number 0.
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


@dataclass(frozen=True)
class ModelSpec:
    """A named model.

    Attributes:
        location: `module:function` returning its directory, or a hub id.
        conventions: the bundle its vectors follow; None takes what its files state.
        aligned: its card declares that disc and gen share one space.
    """

    name: str
    location: str
    description: str
    conventions: str | None = None
    aligned: bool = False


@dataclass(frozen=True)
class CommandSpec:
    """A subcommand of `ume`.

    Attributes:
        arguments: `module:function` that adds arguments to an argparse parser.
        run: `module:function` called with the parsed arguments; returns the exit status.
    """

    name: str
    help: str
    arguments: str
    run: str


@dataclass(frozen=True)
class ExporterSpec:
    """A format a model can be saved or exported to.

    Attributes:
        run: `module:function`, called as `function(model, directory, options)`.
    """

    name: str
    description: str
    run: str


@hookspec
def ume_backends() -> list[BackendSpec]:  # pyright: ignore[reportReturnType]
    """Engines this plugin brings."""


@hookspec
def ume_models() -> list[ModelSpec]:  # pyright: ignore[reportReturnType]
    """Named models this plugin brings."""


@hookspec
def ume_commands() -> list[CommandSpec]:  # pyright: ignore[reportReturnType]
    """Subcommands of `ume` this plugin brings."""


@hookspec
def ume_exporters() -> list[ExporterSpec]:  # pyright: ignore[reportReturnType]
    """Formats this plugin can write."""
