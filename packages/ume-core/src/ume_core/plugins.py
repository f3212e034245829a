"""Finding plugins through the entry-point group `ume`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

import pluggy

from ume_core import hookspecs
from ume_core.errors import PluginError
from ume_core.hookspecs import (
    GROUP,
    BackendSpec,
    ClusterSpec,
    CommandSpec,
    ExporterSpec,
    ModelSpec,
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=_Named)
_HOOKS = ("ume_backends", "ume_models", "ume_commands", "ume_exporters", "ume_clusters")


@dataclass
class Registry:
    """Everything the installed plugins registered, by name.

    Attributes:
        backends: engines.
        models: named models.
        commands: subcommands.
        exporters: formats.
        clusters: ways to share the work of `ume index`.
        origins: distribution by `kind/name`.
        broken: why a plugin did not load, by distribution.
    """

    backends: dict[str, BackendSpec] = field(default_factory=dict[str, BackendSpec])
    models: dict[str, ModelSpec] = field(default_factory=dict[str, ModelSpec])
    commands: dict[str, CommandSpec] = field(default_factory=dict[str, CommandSpec])
    exporters: dict[str, ExporterSpec] = field(default_factory=dict[str, ExporterSpec])
    clusters: dict[str, ClusterSpec] = field(default_factory=dict[str, ClusterSpec])
    origins: dict[str, str] = field(default_factory=dict[str, str])
    broken: dict[str, str] = field(default_factory=dict[str, str])

    def broken_note(self) -> str:
        """What to add to a message that misses a name: it may be a broken plugin's."""
        said = "; ".join(f"{origin} ({reason})" for origin, reason in self.broken.items())
        return f"; plugins that did not load: {said}" if said else ""


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registry of this process. `UME_PLUGINS=a,b` restricts it to those entry points."""
    points = list(entry_points(group=GROUP))
    only = os.environ.get("UME_PLUGINS")
    if only is not None:
        wanted = {name.strip() for name in only.split(",")}
        points = [p for p in points if p.name in wanted]
    return build_registry(points)


def build_registry(points: Iterable[EntryPoint]) -> Registry:
    """Load plugins and collect what they register.

    A plugin that fails to import, or misspells a hook, is listed as broken; it does not take the
    others down.

    Raises:
        PluginError: one name registered twice.
    """
    found = Registry()
    for point in points:
        origin = point.dist.name if point.dist is not None else point.name
        manager = pluggy.PluginManager("ume")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(point.load(), name=point.name)
        except Exception as error:  # whatever a foreign module does on import
            found.broken[origin] = f"{type(error).__name__}: {error}"
            continue
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            found.broken[origin] = f"{error}; hooks are {', '.join(_HOOKS)}"
            continue
        hook: Any = manager.hook
        if not any(getattr(hook, name).get_hookimpls() for name in _HOOKS):
            found.broken[origin] = "it brings nothing; are its functions marked @hookimpl?"
            continue
        _add(found.backends, "engine", hook.ume_backends(), origin, found)
        _add(found.models, "model", hook.ume_models(), origin, found)
        _add(found.commands, "command", hook.ume_commands(), origin, found)
        _add(found.exporters, "exporter", hook.ume_exporters(), origin, found)
        _add(found.clusters, "cluster", hook.ume_clusters(), origin, found)
    return found


def _add(
    table: dict[str, S], kind: str, answers: list[list[S]], origin: str, found: Registry
) -> None:
    for spec in (s for answer in answers for s in answer):
        key = f"{kind}/{spec.name}"
        if spec.name in table:
            raise PluginError(
                f"{kind} {spec.name!r} is registered by both {found.origins[key]} and {origin}",
                fix="uninstall one of the two",
            )
        table[spec.name] = spec
        found.origins[key] = origin
