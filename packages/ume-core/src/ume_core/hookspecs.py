"""The hooks a plugin may implement. All return light specs; heavy imports happen in factories."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pluggy

from ume_core.errors import PluginError
from ume_core.signature import Mode

GROUP = "ume"  # entry-point group
hookspec = pluggy.HookspecMarker("ume")
hookimpl = pluggy.HookimplMarker("ume")


@dataclass(frozen=True)
class BackendSpec:
    """An engine.

    Attributes:
        name: what users call it by.
        modes: the modes it has.
        factory: `module:function`, called as `function(model, options, engine_options)` ->
            Embedder: a name, path or hub id, a `LoadOptions`, and an instance of `options`.
        description: one line for `ume plugins`.
        can_load: `module:function`, called as `function(model, device)` before anything heavy is
            imported; returns None if the engine loads such a model on such a device, else why not,
            to stand after the engine's name. Empty: it may load anything.
        options: `module:class`, a frozen dataclass of the options that this engine alone has.
        requires: modules it needs.
        check: `module:function`, called without arguments; returns None if the machine has what
            else the engine needs (a GPU, say), else what is missing.
        install: the command that brings them.
        priority: `auto` takes the able engine with the highest.
    """

    name: str
    modes: frozenset[Mode]
    factory: str
    description: str
    can_load: str = ""
    options: str = ""
    requires: tuple[str, ...] = ()
    check: str = ""
    install: str = ""
    priority: int = 0

    def missing(self) -> str | None:
        """Why it cannot be used here, or None."""
        absent = [m for m in self.requires if not _is_there(m)]
        if absent:
            return f"needs {', '.join(absent)} ({self.install})"
        return resolve(self.check)() if self.check else None

    def refusal(self, model: str | Path, device: str) -> str | None:
        """Why it does not load a model on a device, or None."""
        return resolve(self.can_load)(model, device) if self.can_load else None

    def options_class(self) -> type | None:
        """The class of its own options, or None if it has none."""
        return resolve(self.options) if self.options else None


def resolve(reference: str) -> Any:
    """Import `module:attribute`.

    Raises:
        PluginError: the module has no such attribute.
        ImportError: the module, or one that it needs, is not there.
    """
    module, _, attribute = reference.partition(":")
    found = import_module(module)
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise PluginError(
            f"a plugin names {reference!r}, and {module} has no {attribute!r}",
            fix="correct the reference in the plugin's spec, or remove the plugin",
        ) from error


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


@dataclass(frozen=True)
class ModelSpec:
    """A named model.

    Attributes:
        name: what users call it by.
        location: `module:function` returning its directory, or a hub id.
        description: one line for `ume models`.
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
        name: what users type.
        help: one line for `ume --help`.
        arguments: `module:function` that adds arguments to an argparse parser.
        run: `module:function` called with the parsed arguments; returns the exit status.
    """

    name: str
    help: str
    arguments: str
    run: str


@dataclass(frozen=True)
class ExporterSpec:
    """A format of `ume export MODEL DIRECTORY --format NAME`.

    Attributes:
        name: the format.
        description: one line for `ume export --help`.
        run: `module:function`, called as `function(model, name, directory, options)` with a
            directory or hub id, the model's name, a new directory's path or None, and an instance
            of `options`.
        options: `module:class`, a frozen dataclass of the format's own options.
    """

    name: str
    description: str
    run: str
    options: str = ""


@dataclass(frozen=True)
class ClusterSpec:
    """A way to share the work of `ume index` among machines.

    Attributes:
        name: what users call it by: the option is `--NAME [ADDRESS]`.
        description: one line for `ume index --help`.
        arguments: `module:function` that adds further arguments to an argparse parser.
        run: `module:function` called with the parsed arguments and the address, empty if none was
            given; returns the exit status.
        install: the command that brings what it needs.
    """

    name: str
    description: str
    arguments: str
    run: str
    install: str


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


@hookspec
def ume_clusters() -> list[ClusterSpec]:  # pyright: ignore[reportReturnType]
    """Ways to share the work of `ume index` that this plugin brings."""
