"""How fast disc is: throughput against the recipe and sentence-transformers, and latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tools.benchmark.baselines import Native, Upstream
from tools.benchmark.cases import Sample, image, text
from tools.benchmark.flops import disc_flops
from tools.gpu_check.environment import products
from tools.gpu_check.findings import Findings, require
from tools.gpu_check.place import Place
from ume_core.results import Vectors
from ume_sentence_transformers.native import save
from ume_torch.checkpoint import DTYPES
from ume_torch.engine import TorchEmbedder
from ume_torch.options import TorchOptions

# Visual tokens of an image -> images of a batch; 3009 is the official convention's most.
TOKENS = {64: 64, 256: 32, 1024: 8, 3009: 4}
SMALL_TOKENS = {4: 4, 16: 2, 35: 2}
Run = Callable[[Sequence[Sample]], Vectors]


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    if not findings.passed("device", place.require_device):
        return
    rates = findings.check("matrix products", lambda: products(place)) or {}
    rate = rates.get(f"{place.dtype} TFLOP/s", 0.0)
    for shape in (place.main, place.second):
        measure(place, findings, shape, rate)


def measure(place: Place, findings: Findings, shape: str, rate: float) -> None:
    """Everyone at one shape; only the recipe and we at the second."""
    # No cache: all rounds and contestants get the same pictures once each.
    engine = findings.load(
        f"{shape}: load", lambda: place.engine(shape, TorchOptions(media_cache_bytes=0))
    )
    if engine is None:
        return
    contestants = others(place, findings, shape, engine) | {
        "ours": lambda samples: engine.embed([s.item for s in samples]).vectors("disc")
    }
    tokens = SMALL_TOKENS if place.small else TOKENS
    cases: dict[str, Callable[[int], list[Sample]]] = {"texts": partial(texts, place)}
    for n, count in tokens.items():
        cases[f"images of {n} tokens"] = partial(images, n, count)
    for name, make in cases.items():
        findings.check(
            f"{shape}: {name}", partial(throughput, place, shape, engine, contestants, make, rate)
        )
    ways = {name: run for name, run in contestants.items() if "batches" not in name}
    findings.check(
        f"{shape}: latency, text", partial(latency, place, ways, lambda r: [text(12, r)])
    )
    for n in list(tokens)[:3]:
        findings.check(
            f"{shape}: latency, image of {n} tokens",
            partial(latency, place, ways, lambda r, n=n: [image(n, r)]),
        )
    findings.check(f"{shape}: memory", lambda: {
        "GB at most": place.peak(lambda: contestants["ours"](images(*list(tokens.items())[-1], 0)))
    })  # fmt: skip


def others(place: Place, findings: Findings, shape: str, engine: TorchEmbedder) -> dict[str, Run]:
    """Whom we are compared with; who cannot run is noted."""
    found: dict[str, Run] = {}
    plain = findings.load(f"{shape}: the recipe's model", lambda: place.plain(shape))
    if plain is not None:

        def ready(samples: Sequence[Sample], batch: int) -> Vectors:
            return plain.disc([engine.prepare(s.item, gen=False) for s in samples], batch)

        found["recipe's model, one by one"] = partial(ready, batch=1)
        found["recipe's model, batches of 8"] = partial(ready, batch=8)
    if shape != place.main:
        return found
    upstream = findings.load("the recipe with its processor", lambda: upstream_of(place))
    if upstream is not None:
        found["recipe, one by one"] = partial(upstream.disc, batch=1)
    native = findings.load("sentence-transformers", lambda: native_of(place))
    if native is not None:
        found["sentence-transformers, batches of 8"] = partial(native.disc, batch=8)
    return found


def upstream_of(place: Place) -> Upstream:
    """The published code."""
    require("torchvision")
    return Upstream(place.checkpoint(place.main), DTYPES[place.dtype], place.device)


def native_of(place: Place) -> Native:
    """sentence-transformers on an exported directory."""
    require("sentence_transformers", "torchvision")
    directory = place.cache / f"{place.main}-st"
    if not directory.is_dir():
        save(place.checkpoint(place.main), directory)
    return Native(directory, DTYPES[place.dtype], place.device)


def texts(place: Place, turn: int) -> list[Sample]:
    """Texts of 5 to 300 words."""
    rng = np.random.default_rng(turn)
    longest, count = (40, 4) if place.small else (300, 64)
    return [text(int(n), rng) for n in rng.integers(5, longest, count)]


def images(tokens: int, count: int, turn: int) -> list[Sample]:
    """New images of one size."""
    rng = np.random.default_rng(turn)
    return [image(tokens, rng) for _ in range(count)]


def throughput(
    place: Place,
    shape: str,
    engine: TorchEmbedder,
    contestants: dict[str, Run],
    make: Callable[[int], list[Sample]],
    rate: float,
) -> dict[str, Any]:
    """Items a second of everyone, in turns, on new inputs every round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    cosines = dict.fromkeys(contestants, 1.0)
    rounds, preparing = (1 if place.small else 3), 0.0
    for turn in range(rounds + 1):
        samples = make(turn)
        vectors: dict[str, Vectors] = {}
        for name, work in contestants.items():
            seconds = place.seconds(lambda: vectors.update({name: work(samples)}))  # noqa: B023
            if turn:  # the first round warms up
                times[name].append(seconds)
        for name, found in vectors.items():
            cosines[name] = min(cosines[name], float((found * vectors["ours"]).sum(1).min()))
        preparing = place.seconds(lambda: [engine.prepare(s.item, gen=False) for s in samples])  # noqa: B023
    samples = make(0)
    prompts = [engine.prepare(s.item, gen=False) for s in samples]
    flops = disc_flops(place.config(shape), prompts)
    return {
        "items": len(samples), "tokens": sum(len(p.ids) for p in prompts),
        "TFLOP": round(flops / 1e12, 4), "preparation alone s": round(preparing, 4),
        "contestants": {
            name: {
                "median s": round(float(np.median(seconds)), 5),
                "items/s": round(len(samples) / float(np.median(seconds)), 2),
                "of the matrix rate": round(flops / 1e12 / float(np.median(seconds)) / rate, 3)
                if rate else None,
                "least cosine to ours": round(cosines[name], 5),
            }
            for name, seconds in times.items()
        },
    }  # fmt: skip


def latency(
    place: Place, contestants: dict[str, Run], make: Callable[[Any], list[Sample]]
) -> dict[str, Any]:
    """Milliseconds of one item alone."""
    rounds, warm = (2, 1) if place.small else (100, 5)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + warm):
        samples = make(np.random.default_rng(1000 + turn))
        for name, work in contestants.items():
            seconds = place.seconds(lambda: work(samples))  # noqa: B023
            if turn >= warm:
                times[name].append(1000 * seconds)
    return {
        "rounds": rounds,
        "contestants": {
            name: {f"p{q} ms": round(float(np.percentile(t, q)), 2) for q in (50, 99)}
            for name, t in times.items()
        },
    }
