"""`load`: from a name to an embedder, through the installed plugins."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ume_core.embedder import Embedder
from ume_core.errors import EngineUnavailable, InvalidOption
from ume_core.hookspecs import BackendSpec
from ume_core.loading import LoadOptions
from ume_core.plugins import registry, resolve

DEFAULT_MODEL = "ume-nano"


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: str = "auto",
    options: LoadOptions | None = None,
    **changes: Any,
) -> Embedder:
    """Load a model.

    Args:
        model: an alias (`ume models` lists them), a checkpoint directory, or a hub id.
        engine: an engine's name (`ume plugins` lists them), or `auto` for the best available.
        options: how to load; `changes` are its fields by name, such as `device="cuda"`,
            `dtype="bfloat16"`, `policy=Policy.closed()`, `text_only="plain"`.

    Raises:
        EngineUnavailable: no engine, or not this one, can run here.
        CheckpointError: the model cannot be found or loaded.
        InvalidOption: an unknown engine or option.
    """
    known = {f.name for f in fields(LoadOptions)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise InvalidOption(
            f"unknown option {unknown[0]!r}", fix=f"use: {', '.join(sorted(known))}"
        )
    chosen = replace(options or LoadOptions(), **changes)
    spec = _engine(engine)
    location, chosen = _locate(model, chosen)
    embedder: Embedder = resolve(spec.factory)(location, chosen)
    return embedder


def _locate(model: str | Path, options: LoadOptions) -> tuple[str | Path, LoadOptions]:
    """The model's directory or hub id, and the options with what its card says."""
    alias = registry().models.get(str(model))
    # An alias wins over a directory of that name: existing code must not change meaning with cwd.
    if alias is None:
        return model, options
    named = replace(
        options, name=options.name or alias.name, aligned=options.aligned or alias.aligned
    )
    if ":" in alias.location:
        return resolve(alias.location)(), named
    return alias.location, named


def _engine(name: str) -> BackendSpec:
    backends = registry().backends
    if name != "auto":
        spec = backends.get(name)
        if spec is None:
            known = ", ".join(sorted(backends)) or "none is installed"
            raise InvalidOption(f"unknown engine {name!r}", fix=f"known engines: {known}")
        missing = spec.missing()
        if missing:
            raise EngineUnavailable(f"the {name} engine {missing}", fix=spec.install)
        return spec
    usable = [s for s in backends.values() if s.missing() is None]
    if not usable:
        raise EngineUnavailable("no engine is installed", fix="pip install ume-torch")
    return max(usable, key=lambda s: s.priority)
