"""From a name to an embedder, through the installed plugins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ume_core.by_mode import ByMode
from ume_core.embedder import Embedder
from ume_core.errors import CheckpointError, EngineUnavailable, InvalidOption, did_you_mean
from ume_core.hookspecs import BackendSpec, ModelSpec, resolve
from ume_core.options import LoadOptions, make_options, option_names
from ume_core.plugins import registry
from ume_core.signature import Mode

_log = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    engine: str = "auto",
    options: LoadOptions | None = None,
    **changes: Any,
) -> Embedder:
    """Load a model.

    Args:
        model: an alias (`ume models` lists them), a checkpoint directory, or a hub id.
        engine: an engine's name (`ume plugins` lists them), or `auto` for the best that can load
            the model and knows all options given. Where that one lacks a mode, as ONNX Runtime
            lacks gen, the next that has it is loaded when the mode is first asked for.
        options: how to load.
        **changes: fields of `LoadOptions` by name, such as `device="cuda"`, `dtype="bfloat16"`,
            `policy=Policy.closed()`, and the engine's own options (`ume plugins ENGINE` lists
            them).

    Raises:
        EngineUnavailable: no engine, or not this one, can run here.
        CheckpointError: the model cannot be found, or not be loaded by this engine.
        InvalidOption: an unknown engine or option.
    """
    given = cast("object", options)
    if given is not None and not isinstance(given, LoadOptions):
        raise InvalidOption(
            f"options is a {type(given).__name__}",
            fix="pass ume_core.LoadOptions(...), or the options by name: load(model, **options)",
        )
    shared = option_names(LoadOptions)
    own = {name: value for name, value in changes.items() if name not in shared}
    chosen = replace(options or LoadOptions(), **{n: v for n, v in changes.items() if n in shared})
    location, alias = locate(model)
    near = "" if "/" in str(model) else did_you_mean(str(model), registry().models)
    if alias is None and near and not Path(location).exists():
        raise CheckpointError(
            f"no model {str(model)!r}", fix=f"{near}else pass a directory or a hub id"
        )
    if alias is not None:
        chosen = replace(
            chosen,
            name=chosen.name or alias.name,
            conventions=chosen.conventions or alias.conventions,
            aligned=chosen.aligned or alias.aligned,
        )
    if engine != "auto":
        spec = _named(engine)
        reason = _refusal(spec, location, chosen.device)
        if reason is not None:
            raise CheckpointError(
                f"the {engine} engine {reason}", fix="leave the engine out, or name another model"
            )
        return _create(spec, location, chosen, own)
    able = _able(location, chosen.device, own)
    while len(able) > 1:
        spec = able.pop(0)
        try:
            embedder = _create(spec, location, chosen, own)
        except EngineUnavailable:  # built for another machine, say; the next one may do
            continue
        return _with_more_modes(embedder, able, lambda s: _create(s, location, chosen, own))
    return _create(able[0], location, chosen, own)


def engines_with(mode: Mode, model: str | Path | None = None) -> list[str]:
    """The names of the installed engines that have a mode and, if one is named, load a model."""
    specs = [s for s in registry().backends.values() if mode in s.modes and s.missing() is None]
    if model is not None:
        location, _ = locate(model)
        specs = [spec for spec in specs if _refusal(spec, location, "auto") is None]
    return sorted(spec.name for spec in specs)


def _with_more_modes(
    embedder: Embedder, others: list[BackendSpec], create: Callable[[BackendSpec], Embedder]
) -> Embedder:
    """The embedder, with the modes it lacks from the best engine that has them."""
    more = next((spec for spec in others if not spec.modes <= embedder.modes), None)
    if more is None:
        return embedder
    return ByMode(embedder, more.name, more.modes, lambda: create(more))


def locate(model: str | Path) -> tuple[str | Path, ModelSpec | None]:
    """The directory or hub id behind a name, and the alias if it is one."""
    alias = registry().models.get(str(model))
    # An alias wins over a directory of that name: existing code must not change meaning with cwd.
    if alias is None:
        return model, None
    where = alias.location
    return (resolve(where)() if ":" in where else where), alias


def _create(
    spec: BackendSpec, location: str | Path, options: LoadOptions, own: dict[str, Any]
) -> Embedder:
    engine_options = make_options(f"{spec.name} engine", spec.options_class(), own)
    try:
        factory = resolve(spec.factory)
    except ImportError as error:  # installed, but not its libraries
        raise EngineUnavailable(
            f"the {spec.name} engine cannot be loaded: {error}", fix=spec.install
        ) from error
    began = time.monotonic()
    embedder: Embedder = factory(location, options, engine_options)
    seconds = time.monotonic() - began
    _log.info(
        "%s was loaded by the %s engine in %.2f s", options.name or location, spec.name, seconds
    )
    return embedder


def _named(name: str) -> BackendSpec:
    backends = registry().backends
    spec = backends.get(name)
    if spec is None:
        known = ", ".join(sorted(backends)) or "none is installed"
        raise InvalidOption(
            f"unknown engine {name!r}{registry().broken_note()}",
            fix=f"{did_you_mean(name, backends)}known engines: {known}",
        )
    missing = spec.missing()
    if missing:
        others = ", ".join(s.name for s in backends.values() if s.missing() is None)
        raise EngineUnavailable(
            f"the {name} engine {missing}", fix=f"install it, or use another engine: {others}"
        )
    return spec


def _refusal(spec: BackendSpec, location: str | Path, device: str) -> str | None:
    """Why an engine does not load this; one that cannot be asked does not stop the others."""
    try:
        return spec.refusal(location, device)
    except Exception as error:  # a fault in a foreign plugin
        return f"cannot be asked ({type(error).__name__}: {error})"


def _able(location: str | Path, device: str, own: dict[str, Any]) -> list[BackendSpec]:
    """The engines that can load what a place holds, the best first; at least one."""
    reasons: dict[str, str] = {}
    able: list[BackendSpec] = []
    for spec in registry().backends.values():
        reason = _refusal(spec, location, device) or spec.missing()
        if reason is None:
            able.append(spec)
        else:
            reasons[spec.name] = reason
    if not able:
        why = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        if reasons and not Path(location).exists():
            raise CheckpointError(
                f"no engine finds {str(location)!r} ({why}){registry().broken_note()}",
                fix="pass a directory, a hub id, or a name (ume models)",
            )
        raise EngineUnavailable(
            f"no installed engine loads {location} ({why or 'none is installed'})",
            fix="install an engine that does: the section Install of the README lists them",
        )
    knowing = [s for s in able if set(own) <= option_names(s.options_class())]
    if not knowing:  # the best one says which options it has
        knowing = [max(able, key=lambda s: s.priority)]
    return sorted(knowing, key=lambda s: -s.priority)
