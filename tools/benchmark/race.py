"""Contestants on the same inputs, in turns; medians and spread of every one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ume_nano
from tools.benchmark.baselines import WORD, Mteb, Native, Upstream
from tools.benchmark.cases import Case, Sample, make_cases, make_rows
from tools.benchmark.flops import disc_flops, synchronize, weight_bytes
from tools.benchmark.profiled import profiled
from tools.benchmark.vllm import Vllm
from ume_core.embedder import Sampling
from ume_core.options import LoadOptions
from ume_core.results import Vectors
from ume_qwen.testing.checkpoints import make_checkpoint
from ume_sentence_transformers.native import save
from ume_torch.checkpoint import DTYPES
from ume_torch.engine import TorchEmbedder
from ume_torch.generate import Row, Sampler, greedy
from ume_torch.options import TorchOptions

Run = Callable[[Case], Vectors | None]
Outcome = tuple[float, Vectors | None]  # seconds, and what came out
_PROFILED = 1000  # a seed beyond all rounds
_PAUSE = 0.25  # seconds until the threads of another process have stopped spinning


def checkpoint(cache: Path, size: str, dtype: str) -> Path:
    """The size's checkpoint, made if it is missing."""
    if size == "nano":
        return ume_nano.path()
    directory = cache / size
    if not (directory / "complete").is_file():
        print(f"making a random checkpoint of size {size} in {directory}", file=sys.stderr)
        words = ume_nano.path() / "tokenizer.json"
        make_checkpoint(directory, "qwen2_vl", size=size, dtype=DTYPES[dtype], words=words)
        (directory / "complete").touch()
    return directory


@dataclass
class Field:
    """The contestants, loaded."""

    size: str
    directory: Path
    device: str
    dtype: torch.dtype
    ours: TorchEmbedder
    upstream: Upstream
    native: Native | None
    mteb: Mteb | None
    full: bool
    vllm: Vllm | None = None

    @classmethod
    def load(
        cls, cache: Path, size: str, dtype: str, device: str, full: bool, *, disc: bool,
        gen: bool = True, vllm: bool = False,
    ) -> Field:  # fmt: skip
        """Load everyone who takes part: sentence-transformers has `disc`, mteb's wrapper `gen`."""
        directory = checkpoint(cache, size, dtype)
        torch_dtype, native = DTYPES[dtype], None
        if disc:
            saved = cache / f"{size}-st"
            if not saved.is_dir():
                save(directory, saved)
            native = Native(saved, torch_dtype, device)
        # The conventions of the recipe beside it. No cache: within a round several of our own runs
        # get the same pictures, and the first would pay for the others.
        options = LoadOptions(conventions="readme", dtype=dtype, device=device)
        own = TorchOptions(media_cache_bytes=0)
        return cls(
            size, directory, device, torch_dtype, TorchEmbedder(directory, options, own),
            Upstream(directory, torch_dtype, device), native,
            Mteb(directory, device) if dtype == "bfloat16" and gen else None, full,
            Vllm(directory, dtype, full=full) if vllm else None,
        )  # fmt: skip

    def contestants(self, case: Case, turn: int) -> dict[str, Callable[[], Outcome]]:
        """Who runs a case, ours last but for vLLM."""
        runs = {
            label: partial(timed, run, case, self.device)
            for label, run in self.contestants_here(case).items()
        }  # fmt: skip
        if self.vllm is not None:
            label = "vLLM" if case.kind == "disc" else "vLLM, tokens alone"
            runs[label] = partial(self.vllm.run, case.name, turn)
        return runs

    def contestants_here(self, case: Case) -> dict[str, Run]:
        """Those of this process."""
        if case.kind == "disc":
            runs: dict[str, Run] = {
                "upstream, one by one": lambda c: self.upstream.disc(c.samples, 1)
            }
            if len(case.samples) > 1:
                runs["upstream, batches of 4"] = lambda c: self.upstream.disc(c.samples, 4)
            # A CPU's video: what one by one is, at the same price.
            if self.native is not None and (case.name, self.device) != ("video", "cpu"):
                native = self.native
                # One kind of input a call: sentence-transformers 6.2 renders mixed lists wrongly.
                runs["sentence-transformers"] = lambda c: native.disc(c.samples, 4)
            return runs | {"ours": self._disc}
        if case.kind == "gen":
            # One by one is measured on two of the rows, and stated as such.
            runs = {
                "upstream, one by one (2 rows)": lambda c: self.upstream.gen(
                    c.samples[:2], c.lengths[:2], 1
                ),
            }
            if self.mteb is None:  # the wrapper is that batch otherwise
                runs["upstream, batches of 4 (4 rows)"] = lambda c: self.upstream.gen(
                    c.samples[:4], c.lengths[:4], 4
                )
            if self.mteb is not None:
                mteb = self.mteb
                runs["mteb UMER1Wrapper, batches of 4 (4 rows)"] = lambda c: mteb.gen(
                    c.samples[:4], c.lengths[:4], 4
                )
            if torch.device(self.device).type == "cuda":
                runs["ours, no CUDA graphs (8 rows)"] = partial(self._gen, mode="gen", graphs=False)
            runs["ours, both (8 rows)"] = partial(self._gen, mode="both")
            return runs | {"ours (8 rows)": partial(self._gen, mode="gen")}
        if case.kind == "rows":
            runs = {}
            if len(case.samples) == 1:
                runs["upstream"] = lambda c: self.upstream.gen(c.samples, c.lengths, 1)
            elif len(case.samples) == 8 and self.mteb is not None:
                mteb = self.mteb
                runs["mteb UMER1Wrapper, batches of 4 (4 rows)"] = lambda c: mteb.gen(
                    c.samples[:4], c.lengths[:4], 4
                )
            elif len(case.samples) == 8:
                runs["upstream, batches of 4 (4 rows)"] = lambda c: self.upstream.gen(
                    c.samples[:4], c.lengths[:4], 4
                )
            return runs | {"ours": partial(self._gen, mode="gen")}
        return {
            "upstream, 8 samples": lambda c: self.upstream.gen(c.samples, c.lengths, 1, 8),
            "ours, 1 sample": partial(self._gen, mode="gen", samples=1),
            "ours, 8 samples": partial(self._gen, mode="gen", samples=8),
        }

    def _disc(self, case: Case) -> Vectors | None:
        return self.ours.embed([s.item for s in case.samples]).disc

    def _gen(self, case: Case, mode: Any, samples: int = 0, graphs: bool = True) -> Vectors | None:
        return scripted(self.ours, case.samples, case.lengths, mode, samples, graphs=graphs)


def scripted(
    engine: TorchEmbedder,
    samples: Sequence[Sample],
    lengths: Sequence[int],
    mode: Any = "gen",
    copies: int = 0,
    *,
    graphs: bool = True,
) -> Vectors | None:
    """Our gen vectors of answers of given lengths, at the price of real logits and choices.

    Args:
        engine: ours.
        samples: what is embedded.
        lengths: tokens of each one's answer, `<gen_emb>` included.
        mode: `gen` or `both`.
        copies: sampled answers of each; 0 decodes greedily.
        graphs: whether steps are replayed where the device can.
    """
    gen = engine.prepare.tokenizer.special.gen
    sampling = Sampling(n=copies) if copies else None
    original = Sampler(sampling) if sampling is not None else greedy

    def pick(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        original(logits, rows)  # the price of choosing is paid
        return [gen if len(r.ids) + 1 == lengths[r.prompt] else WORD for r in rows]

    runner = engine.runner
    runner.pick = pick
    usual, runner.recorder = runner.recorder, runner.recorder if graphs else None
    try:
        items = [s.item for s in samples]
        return engine.embed(items, mode=mode, sampling=sampling, max_new_tokens=1000).gen
    finally:
        runner.recorder, runner.pick = usual, None


def timed(run: Run, case: Case, device: str) -> Outcome:
    """Run a case in this process."""
    synchronize(device)
    began = time.perf_counter()
    vectors = run(case)
    synchronize(device)
    return time.perf_counter() - began, vectors


def race(field: Field, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Times per case and contestant, one warm-up round before."""
    found: dict[str, Any] = {}
    for name in names:
        times: dict[str, list[float]] = {}
        cosines: dict[str, list[float]] = {}
        case = _case(field, name, 0)
        # Weights are warm after the first case; a slow case then needs no warm-up of its own.
        slow = field.size == "2b" and field.device == "cpu" and bool(found)
        for turn in range(1 if slow else 0, rounds + 1):
            case = _case(field, name, turn)
            runs = list(field.contestants(case, turn).items())
            for label, _ in runs:
                times.setdefault(label, [])
            # Who begins changes, so that heat and clocks favour nobody.
            shift = turn % len(runs)
            vectors: dict[str, Vectors | None] = {}
            for label, run in runs[shift:] + runs[:shift]:
                if field.vllm is not None:
                    time.sleep(_PAUSE)
                seconds, vectors[label] = run()
                if turn:
                    times[label].append(seconds)
                print(f"{name:9} round {turn} {label}: {seconds:.2f} s", file=sys.stderr,
                      flush=True)  # fmt: skip
            first = vectors[runs[0][0]]
            for label, found_vectors in vectors.items():
                if (
                    first is not None
                    and found_vectors is not None
                    and turn
                    and case.kind != "sample"
                ):
                    rows = min(len(first), len(found_vectors))
                    products = (first[:rows] * found_vectors[:rows]).sum(axis=1)
                    cosines.setdefault(label, []).append(float(products.min()))
        found[name] = _summary(field, case, times, cosines)
    return found


def where_time_goes(field: Field, names: Sequence[str]) -> list[dict[str, Any]]:
    """Profiles of ours and of vLLM, on inputs that no round has had."""
    assert field.vllm is not None
    rows: list[dict[str, Any]] = []
    for name in names:
        case = _case(field, name, _PROFILED)
        ours = partial(field.contestants_here(case)["ours"], case)
        rows.append({"case": name, "": "ours"} | profiled(ours))
        time.sleep(_PAUSE)
        rows.append({"case": name, "": "vLLM"} | field.vllm.profile(name, _PROFILED))
        time.sleep(_PAUSE)
    return rows


def _case(field: Field, name: str, turn: int) -> Case:
    cases = [*make_cases(turn, full=field.full), *make_rows(turn)]
    return next(c for c in cases if c.name == name)


def _summary(
    field: Field, case: Case, times: dict[str, list[float]], cosines: dict[str, list[float]]
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for label, seconds in times.items():
        done = next((n for n in (2, 4, 8) if f"({n} rows)" in label), len(case.samples))
        rows[label] = {
            "seconds": [round(s, 4) for s in seconds],
            "median": float(np.median(seconds)),
            "low": min(seconds), "high": max(seconds), "items": done,
            "tokens": sum(case.lengths[:done]),
            "least_cosine_to_first": min(cosines[label]) if label in cosines else None,
        }  # fmt: skip
    summary: dict[str, Any] = {"kind": case.kind, "runs": rows}
    config = field.upstream.model.config
    if case.kind == "disc":
        prompts = [field.ours.prepare(s.item, gen=False) for s in case.samples]
        summary["flops"] = disc_flops(config, prompts)
        summary["prompt_tokens"] = [len(p.ids) for p in prompts]
    else:
        summary["step_bytes"] = weight_bytes(config, field.dtype.itemsize)
        summary["lengths"] = list(case.lengths)
    return summary
