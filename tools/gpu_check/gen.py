"""How fast gen is: the decoding step against its floor, tokens a second, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tools.benchmark.baselines import Mteb
from tools.benchmark.cases import Sample, image
from tools.benchmark.flops import read_rate, weight_bytes
from tools.benchmark.race import scripted
from tools.gpu_check.findings import Findings, NotRun, require
from tools.gpu_check.place import Place
from tools.gpu_check.plain import Plain
from ume_torch.checkpoint import DTYPES
from ume_torch.engine import TorchEmbedder
from ume_torch.options import TorchOptions

ROWS = (1, 8, 64)
ANSWERS = (100, 400)


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    if not findings.passed("device", place.require_device):
        return
    bandwidth = findings.check("reading", lambda: read_rate(place.device))
    for shape in (place.main, place.second):
        measure(place, findings, shape, bandwidth or 0.0)


def measure(place: Place, findings: Findings, shape: str, bandwidth: float) -> None:
    """Everything at one shape; peers at the first only."""
    own = TorchOptions(gen_rows=max(ROWS), media_cache_bytes=0)
    engine = findings.load(f"{shape}: load", lambda: place.engine(shape, own))
    if engine is None:
        return
    rows = (1, 4) if place.small else ROWS
    answers = (6, 12) if place.small else ANSWERS
    for count in rows:
        findings.check(
            f"{shape}: a step, {number(count)}",
            partial(step, place, shape, engine, count, answers[0], bandwidth),
        )
    if place.cuda:
        findings.check(
            f"{shape}: a step, 8 rows, without graphs",
            partial(step, place, shape, engine, 8, answers[0], bandwidth, graphs=False),
        )
    plain = findings.load(f"{shape}: the recipe's model", lambda: place.plain(shape))
    mteb = None
    if shape == place.main:
        mteb = findings.load("mteb's wrapper", lambda: mteb_of(place))
    for length in answers[:1] if shape != place.main else answers:
        findings.check(
            f"{shape}: answers of {length} tokens",
            partial(race, place, engine, plain, mteb, rows[-1], length),
        )
    findings.check(
        f"{shape}: memory", partial(memory, place, shape, engine, plain, rows[-1], answers[0])
    )


def mteb_of(place: Place) -> Mteb:
    """mteb's own wrapper, which is bfloat16 only."""
    require("mteb", "qwen_vl_utils", "torchvision")
    if place.dtype != "bfloat16":
        raise NotRun(f"the wrapper computes in bfloat16, this run in {place.dtype}")
    return Mteb(place.checkpoint(place.main), place.device)


def number(rows: int) -> str:
    """So many rows."""
    return f"{rows} row{'s' * (rows > 1)}"


def inputs(count: int, turn: int) -> list[Sample]:
    """Small images, so that decoding is most of the work."""
    rng = np.random.default_rng(turn)
    return [image(16, rng) for _ in range(count)]


def step(
    place: Place,
    shape: str,
    engine: TorchEmbedder,
    rows: int,
    length: int,
    bandwidth: float,
    *,
    graphs: bool = True,
) -> dict[str, float]:
    """One decoding step: what a longer answer costs more than a short one, by its tokens."""
    short = length // 3
    times: dict[int, list[float]] = {short: [], length: []}
    for turn in range(2 if place.small else 5):
        samples = inputs(rows, turn)
        for tokens, found in times.items():
            lengths = [tokens] * rows
            seconds = place.seconds(lambda: scripted(engine, samples, lengths, graphs=graphs))  # noqa: B023
            if turn:
                found.append(seconds)
    long, brief = (float(np.median(times[n])) for n in (length, short))
    milliseconds = 1000 * (long - brief) / (length - short)
    floor = 1000 * weight_bytes(place.config(shape), DTYPES[place.dtype].itemsize)
    floor = floor / bandwidth if bandwidth else float("nan")
    return {
        "ms a step": round(milliseconds, 4), "ms to read the weights": round(floor, 4),
        "times the floor": round(milliseconds / floor, 2),
        "tokens/s": round(1000 * rows / milliseconds, 1),
    }  # fmt: skip


def race(
    place: Place,
    engine: TorchEmbedder,
    plain: Plain | None,
    mteb: Mteb | None,
    rows: int,
    length: int,
) -> dict[str, Any]:
    """Tokens a second, prompts included, of everyone on the same inputs."""

    def recipe(samples: Sequence[Sample], batch: int) -> None:
        assert plain is not None
        prompts = [engine.prepare(s.item, gen=True) for s in samples]
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            plain.answers(part, [length] * len(part))

    contestants: dict[str, tuple[int, Callable[[list[Sample]], Any]]] = {}
    if plain is not None:  # one by one is measured on one row
        contestants["recipe's model, one by one"] = (1, partial(recipe, batch=1))
        contestants["recipe's model, batches of 8"] = (min(8, rows), partial(recipe, batch=8))
    if mteb is not None:
        contestants["mteb's wrapper, batches of 8"] = (
            min(8, rows), lambda samples: mteb.gen(samples, [length] * len(samples), 8)
        )  # fmt: skip
    for count in dict.fromkeys((1, min(8, rows), rows)):
        contestants[f"ours, {number(count)}"] = (
            count, lambda samples: scripted(engine, samples, [length] * len(samples))
        )  # fmt: skip
    found: dict[str, Any] = {}
    for name, (count, work) in contestants.items():
        times: list[float] = []
        for turn in range(2 if place.small or length > 100 else 4):
            samples = inputs(count, turn)
            seconds = place.seconds(lambda: work(samples))  # noqa: B023
            if turn:
                times.append(seconds)
        middle = float(np.median(times))
        found[name] = {
            "rows": count, "median s": round(middle, 3),
            "tokens/s": round(count * length / middle, 1),
        }  # fmt: skip
    return {"length": length, "contestants": found}


def memory(
    place: Place, shape: str, engine: TorchEmbedder, plain: Plain | None, rows: int, length: int
) -> dict[str, float]:
    """GB held at most: both models' weights, and in turn what each one's answers need."""
    found = {"ours, GB": place.peak(lambda: scripted(engine, inputs(rows, 9), [length] * rows))}
    if plain is not None:
        few = min(8, rows)
        prompts = [engine.prepare(s.item, gen=True) for s in inputs(few, 9)]
        found[f"recipe's model, {few} rows, GB"] = place.peak(
            lambda: plain.answers(prompts, [length] * few)
        )
    weights = weight_bytes(place.config(shape), DTYPES[place.dtype].itemsize)
    return found | {"text weights of one, GB": weights / 1e9}
