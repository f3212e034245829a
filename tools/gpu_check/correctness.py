"""Whether vectors are right on the device."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from tools.benchmark.cases import image
from tools.gpu_check.findings import Findings, NotRun
from tools.gpu_check.place import Place
from tools.gpu_check.stand_ins import Repeater, short_of_memory, varlen_kernel
from ume_core.items import as_item
from ume_core.results import EmbeddingResult
from ume_core.testing.contract import mixed_items
from ume_torch.engine import TorchEmbedder
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels

ROOT = Path(__file__).resolve().parents[2]
CUDA_TESTS = "packages/ume-torch/tests/test_cuda.py"
CPU_TESTS = "tests/test_contract.py::TestTorchNano"
KINDS = ("qwen2_vl", "qwen2_5_vl")
BUDGET = 12


def run(place: Place, findings: Findings) -> None:
    """All checks of the stage."""
    # First and in a process of its own: what has used a GPU cannot fork.
    findings.check("contract kit and tests", lambda: tests(place))
    if not findings.passed("device", place.require_device):
        return
    for kind in KINDS:
        findings.check(f"recipe, {kind}, float32", partial(float32, place, kind))
    findings.check(f"recipe, {place.main}, float32", partial(float32, place, place.main))
    findings.check(f"recipe, {place.main}, bfloat16", lambda: bfloat16(place))
    findings.check("batches, bfloat16", lambda: batches(place))
    findings.check("invariant, bfloat16", lambda: invariant(place))
    findings.check("varlen attention against sdpa", lambda: varlen(place))
    findings.check("CUDA graphs against eager", lambda: graphs(place))
    findings.check("out of memory", lambda: out_of_memory(place))


def tests(place: Place) -> dict[str, Any]:
    """The contract kit, and on a GPU the tests of graphs and kernels."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "tests.xml"
        chosen = CUDA_TESTS if place.cuda else CPU_TESTS
        process = multiprocessing.get_context("fork").Process(target=_pytest, args=(chosen, xml))
        process.start()
        process.join()
        if not xml.is_file():
            raise AssertionError(f"pytest ended with status {process.exitcode} and no report")
        cases = list(ElementTree.parse(xml).iter("testcase"))
    bad = [c.get("name") for c in cases if c.find("failure") is not None]
    bad += [c.get("name") for c in cases if c.find("error") is not None]
    left_out = [s.get("message") for c in cases if (s := c.find("skipped")) is not None]
    if bad:
        raise AssertionError(f"{len(bad)} of {len(cases)} failed: {', '.join(map(str, bad))}")
    if len(left_out) == len(cases):
        raise NotRun(f"all {len(cases)} tests were skipped: {left_out[0] if left_out else ''}")
    return {"passed": len(cases) - len(left_out), "skipped": len(left_out), "of": chosen}


def _pytest(chosen: str, xml: Path) -> None:
    import pytest

    raise SystemExit(pytest.main([str(ROOT / chosen), f"--rootdir={ROOT}", f"--junitxml={xml}"]))


def float32(place: Place, shape: str) -> dict[str, Any]:
    """disc, gen and greedy text of every modality against the recipe's model, item by item."""
    ours, plain = place.engine(shape, dtype="float32"), place.plain(shape, dtype="float32")
    result = ours.embed(mixed_items(), mode="both", max_new_tokens=BUDGET)
    disc, gen, texts = _recipe(ours, plain, answers=True)
    said = [r.samples[0].text for r in result.records]
    found = {
        "items": len(said), "same texts": sum(a == b for a, b in zip(said, texts, strict=True)),
        "disc": float(np.abs(result.vectors("disc") - disc).max()),
        "gen": float(np.abs(result.vectors("gen") - gen).max()),
    }  # fmt: skip
    bound = 1e-4 if place.cuda else 1e-5  # a GPU adds up in another order
    if said != texts or not max(found["disc"], found["gen"]) < bound:
        raise AssertionError(f"further than {bound} from the recipe: {found}")
    return found


def bfloat16(place: Place) -> dict[str, float]:
    """Least cosines to the recipe in float32: ours, and the recipe's own in bfloat16."""
    exact, _, _ = _recipe(place.engine(place.main, dtype="float32"),
                          place.plain(place.main, dtype="float32"))  # fmt: skip
    ours = place.engine(place.main, dtype="bfloat16")
    rounded, _, _ = _recipe(ours, place.plain(place.main, dtype="bfloat16"))
    vectors = ours.embed(mixed_items()).vectors("disc")
    found = {"ours": _least(vectors, exact), "recipe": _least(rounded, exact),
             "ours to the recipe's": _least(vectors, rounded)}  # fmt: skip
    if not found["ours"] > 0.99:
        raise AssertionError(f"cosines below 0.99: {found}")
    return found


def batches(place: Place) -> dict[str, Any]:
    """Least cosine of an item alone to the same in a batch."""
    engine = place.engine(place.main, dtype="bfloat16")
    whole, alone = _whole_and_alone(engine)
    found = {mode: _least(whole.vectors(mode), alone[mode]) for mode in ("disc", "gen")}
    same = [r.samples[0].text for r in whole.records] == alone["texts"]
    if not found["disc"] > 0.99:
        raise AssertionError(f"cosines below 0.99: {found}")
    return found | {"all texts the same": same}


def invariant(place: Place) -> dict[str, Any]:
    """`invariant=True`: not a bit depends on the batch."""
    engine = place.engine(place.main, TorchOptions(invariant=True), dtype="bfloat16")
    whole, alone = _whole_and_alone(engine)
    for mode in ("disc", "gen"):
        if not (whole.vectors(mode) == alone[mode]).all():
            difference = float(np.abs(whole.vectors(mode) - alone[mode]).max())
            raise AssertionError(f"{mode} differs by {difference:.3g}")
    return {"items": len(whole.records), "equal": "bit for bit"}


def varlen(place: Place) -> dict[str, Any]:
    """One attention call for all segments against a call a segment."""
    kernel = varlen_kernel(place.device)
    if kernel is None:
        raise NotRun("torch has no kernel for many segments on this device")
    engine = place.engine(place.main, dtype="bfloat16", kernels=Kernels(kernel))
    looped = place.engine(place.main, dtype="bfloat16", kernels=Kernels())
    exact = place.engine(place.main, dtype="float32").embed(mixed_items()).vectors("disc")
    found = {"to each other": _least(engine.embed(mixed_items()).vectors("disc"),
                                     looped.embed(mixed_items()).vectors("disc"))}  # fmt: skip
    for name, made in (("one call", engine), ("a call a segment", looped)):
        found[f"{name} to float32"] = _least(made.embed(mixed_items()).vectors("disc"), exact)
    if not min(found.values()) > 0.99:
        raise AssertionError(f"cosines below 0.99: {found}")
    return found | _stand_in(place)


def graphs(place: Place) -> dict[str, Any]:
    """Replayed decoding steps against steps that run as they come, float32."""
    kernels = None if place.cuda else Kernels(recorder=Repeater())
    by_graph = place.engine(place.main, dtype="float32", kernels=kernels)
    eager = place.engine(place.main, TorchOptions(cuda_graphs=False), dtype="float32")
    items = [*mixed_items(), *(f"text {n}" for n in range(2 if place.small else 12))]
    a, b = (e.embed(items, mode="gen", max_new_tokens=40) for e in (by_graph, eager))
    usable = by_graph.runner.recorder is not None and by_graph.runner.recorder.usable
    difference = float(np.abs(a.vectors("gen") - b.vectors("gen")).max())
    texts = [[r.samples[0].text for r in result.records] for result in (a, b)]
    if not usable or texts[0] != texts[1] or not difference < 1e-4:
        raise AssertionError(
            f"recorded: {usable}, same texts: {texts[0] == texts[1]}, difference {difference:.3g}"
        )
    return {"items": len(items), "difference": difference} | _stand_in(place)


def out_of_memory(place: Place) -> dict[str, Any]:
    """A batch that does not fit is computed in parts, with a warning, and nothing is lost."""
    rng = np.random.default_rng(0)
    tokens, count = (16, 4) if place.small else (1024, 48)
    items = [image(tokens, rng).item for _ in range(count)]
    own = TorchOptions(batch_tokens=64 * 1024, media_cache_bytes=0)
    engine = place.engine(place.main, own)
    engine.runner.pack_tokens = own.batch_tokens  # also where less is free
    if place.cuda:
        torch.cuda.reset_peak_memory_stats()
    expected = engine.embed(items).vectors("disc")
    longest = max(len(engine.prepare(item, gen=True).ids) for item in items[:8])
    short = _little_memory(place, engine, items[:1]) if place.cuda else None
    room = short or short_of_memory(engine, longest)
    with room, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = engine.embed(items, on_error="record")
        gen = engine.embed(items[:8], mode="gen", max_new_tokens=8, on_error="record")
    said = [str(w.message) for w in caught if "out of memory" in str(w.message)]
    lost = [r.reason for r in (*found.records, *gen.records) if r.status == "failed"]
    least = _least(found.vectors("disc"), expected)
    if lost or not said or not least > 0.99:
        raise AssertionError(f"lost {len(lost)}, warned {len(said)} times, cosine {least:.4f}")
    return {"items": count, "warnings": len(said), "least cosine": least} | _stand_in(place)


@contextmanager
def _little_memory(place: Place, engine: TorchEmbedder, one: list[Any]) -> Generator[None]:
    """A third of what the batch before took beyond the weights."""
    used = torch.cuda.max_memory_allocated()
    engine.embed(one)
    held = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((held + (used - held) / 3) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _stand_in(place: Place) -> dict[str, str]:
    return {} if place.cuda else {"rehearsed with": "a stand-in"}


def _recipe(ours: Any, plain: Any, *, answers: bool = False) -> tuple[Any, Any, list[str]]:
    """disc vectors, and if wanted gen vectors and texts, of the recipe's model, one by one."""
    items = [as_item(item) for item in mixed_items()]
    disc = [plain.disc([ours.prepare(item, gen=False)], 1)[0] for item in items]
    if not answers:
        return np.stack(disc), None, []
    gen = [plain.gen(ours.prepare(item, gen=True), BUDGET) for item in items]
    decode = ours.prepare.tokenizer.decode
    return np.stack(disc), np.stack([v for v, _ in gen]), [decode(ids) for _, ids in gen]


def _whole_and_alone(engine: Any) -> tuple[EmbeddingResult, dict[str, Any]]:
    options: dict[str, Any] = {"mode": "both", "max_new_tokens": BUDGET}
    items = mixed_items()
    single = [engine.embed([item], **options) for item in items]
    alone: dict[str, Any] = {
        mode: np.stack([s.vectors(mode)[0] for s in single]) for mode in ("disc", "gen")
    }
    alone["texts"] = [s.records[0].samples[0].text for s in single]
    return engine.embed(items, **options), alone


def _least(a: Any, b: Any) -> float:
    """Cosine."""
    return float((a * b).sum(axis=1).min())
