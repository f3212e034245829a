"""From a name to an embedder, through the installed plugins, and the options on the way."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ume_core.embedder import Embedder
from ume_core.errors import EngineUnavailable, InvalidOption
from ume_core.hookspecs import BackendSpec, ModelSpec
from ume_core.limits import Limits, Policy
from ume_core.plugins import registry, resolve


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded and which conventions its vectors follow.

    Attributes:
        name: the alias it was asked for by, for signatures; None takes the directory's or hub name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (bfloat16 on CUDA, float32 on a CPU), `float32` or `bfloat16`.
        attention: `auto` (flash_attention_2 where installed and on CUDA, else sdpa), `sdpa` or
            `flash_attention_2`.
        provider: ONNX Runtime's execution provider: `auto` (by `device`), `cpu`, `cuda` or
            `tensorrt`.
        streams: TensorRT's requests computed at once, each with its own buffers.
        conventions: `official` (training and evaluation) or `readme` (the published README); None
            takes what the checkpoint states, else `official`. See `ume_core.conventions`.
        prompt: the request after `<disc_emb>`: `one-line` (alias `mteb`), `readme` or `lines`.
            Here and in the next five, None takes the conventions' choice.
        text_only: `blank` (a white picture stands before the text) or `plain`.
        media_order: `media-first` or `given`.
        frame_lists: `utils-0.0.11` or `utils-0.0.14`, the qwen-vl-utils version whose rule resizes
            the frames of a list.
        min_pixels: least height x width of an image after resizing.
        max_pixels: most height x width of an image after resizing.
        thinking: how gen answers: `full` (as trained), `short` (thinking is closed after
            `thinking_tokens`, the summary follows), `none` (the summary alone) or `skip`
            (`<gen_emb>` at once). All but `full` change the vectors, and the signature.
        thinking_tokens: tokens of short thinking.
        jpeg_draft: decode large JPEGs at a fraction of their size; faster, other pixels.
        batch_tokens: prompt tokens of one forward pass; fewer where memory is short.
        gen_rows: answers decoded together; fewer where memory is short.
        cuda_graphs: replay decoding steps as CUDA graphs; not on a CPU, nor with `invariant`.
        invariant: compute every item alone, so that not a bit depends on its batch (slower; without
            it float32 vectors agree to 1e-5 and half precision to the figures in the README).
        media_cache_bytes: visual states kept, so that a picture seen again is not computed again.
        gen_cache: file that keeps gen answers by content and signature; None keeps none.
        aligned: the model's card declares disc and gen comparable.
    """

    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    provider: str = "auto"
    streams: int = 2
    conventions: str | None = None
    prompt: str | None = None
    text_only: str | None = None
    media_order: str | None = None
    frame_lists: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    thinking: str = "full"
    thinking_tokens: int = 64
    jpeg_draft: bool = False
    batch_tokens: int = 8192
    gen_rows: int = 32
    cuda_graphs: bool = True
    invariant: bool = False
    media_cache_bytes: int = 256 * 1024 * 1024
    gen_cache: Path | None = None
    aligned: bool = False
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)


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
    location, alias = locate(model)
    if alias is not None:
        chosen = replace(
            chosen,
            name=chosen.name or alias.name,
            conventions=chosen.conventions or alias.conventions,
            aligned=chosen.aligned or alias.aligned,
        )
    if engine != "auto":
        return _create(_named(engine), location, chosen)
    *others, last = _usable(location, chosen.device)
    for spec in others:
        try:
            return _create(spec, location, chosen)
        except EngineUnavailable:  # built for another machine, say; the next one may do
            continue
    return _create(last, location, chosen)


def _create(spec: BackendSpec, location: str | Path, options: LoadOptions) -> Embedder:
    try:
        factory = resolve(spec.factory)
    except ImportError as error:  # installed, but not its libraries
        raise EngineUnavailable(
            f"the {spec.name} engine cannot be loaded: {error}", fix=spec.install
        ) from error
    embedder: Embedder = factory(location, options)
    return embedder


def locate(model: str | Path) -> tuple[str | Path, ModelSpec | None]:
    """The directory or hub id behind a name, and the alias if it is one."""
    alias = registry().models.get(str(model))
    # An alias wins over a directory of that name: existing code must not change meaning with cwd.
    if alias is None:
        return model, None
    where = alias.location
    return (resolve(where)() if ":" in where else where), alias


def _named(name: str) -> BackendSpec:
    backends = registry().backends
    spec = backends.get(name)
    if spec is None:
        known = ", ".join(sorted(backends)) or "none is installed"
        raise InvalidOption(f"unknown engine {name!r}", fix=f"known engines: {known}")
    missing = spec.missing()
    if missing:
        others = ", ".join(s.name for s in backends.values() if s.missing() is None)
        raise EngineUnavailable(
            f"the {name} engine {missing}", fix=f"mend that, or use another engine: {others}"
        )
    return spec


def _usable(location: str | Path, device: str) -> list[BackendSpec]:
    """The engines that can load what a place holds, the best first; at least one."""
    kind = _kind(Path(location))
    serving = {"checkpoint": {"checkpoint"}, "export": {"export"}, "engines": {"export", "engines"}}
    able = [s for s in registry().backends.values() if s.serves in serving[kind]]
    usable = [s for s in able if s.missing() is None and not (s.gpu and device == "cpu")]
    if not usable:
        install = "packages/ume-torch" if kind == "checkpoint" else "'plugins/ume-onnxruntime[cpu]'"
        raise EngineUnavailable(
            f"no installed engine loads this {kind}",
            fix="; ".join(s.install for s in able) or f"in a clone: pip install {install}",
        )
    return sorted(usable, key=lambda s: -s.priority)


def _kind(location: Path) -> str:
    """What a place holds: a `checkpoint`, an `export`, or one with built `engines`."""
    if not (location / "ume_export.json").is_file():
        return "checkpoint"
    return "engines" if (location / "tensorrt" / "engines.json").is_file() else "export"
