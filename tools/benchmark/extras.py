"""What is measured on our engine alone: scaling, memory, batch invariance, thinking options."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import ume_nano
from tools.benchmark.cases import text
from tools.benchmark.race import Field
from ume_core.items import Image
from ume_core.options import LoadOptions
from ume_torch.engine import TorchEmbedder
from ume_torch.kv import KeyValues
from ume_torch.options import TorchOptions

GALLERY = Path(__file__).resolve().parents[1] / "gallery"


def measure(field: Field) -> dict[str, Any]:
    """All extras that suit the size."""
    found: dict[str, Any] = {"memory": memory(field)}
    if field.size != "2b" or field.device != "cpu":
        found["corpus"] = corpus(field)
        found["prompt"] = prompt(field)
    if field.size == "nano":
        found["invariance"] = invariance()
        found["thinking"] = thinking()
    return found


def corpus(field: Field) -> list[dict[str, float]]:
    """Milliseconds an item as the corpus grows."""
    rows: list[dict[str, float]] = []
    for count in (10, 100, 1000):
        rng = np.random.default_rng(count)
        items = [text(int(n), rng).item for n in rng.integers(5, 40, count)]
        times = [_seconds(lambda items=items: field.ours.embed(items)) for _ in range(3)]
        rows.append({"items": count, "ms_per_item": 1000 * float(np.median(times)) / count})
    return rows


def prompt(field: Field) -> list[dict[str, float]]:
    """Milliseconds a token as one prompt grows."""
    rows: list[dict[str, float]] = []
    for words in (30, 300, 2000):
        rng = np.random.default_rng(words)
        times: list[float] = []
        tokens = 0
        for _ in range(3):
            item = text(words, rng).item
            began = time.perf_counter()
            tokens = field.ours.embed([item]).records[0].prompt_tokens
            times.append(time.perf_counter() - began)
        rows.append({"tokens": tokens, "ms_per_token": 1000 * float(np.median(times)) / tokens})
    return rows


def memory(field: Field) -> dict[str, float]:
    """Bytes retained per generated token over the keys and values themselves."""
    import torch

    runner = field.ours.runner
    shape = runner.shape
    cache = KeyValues(shape)
    prompt_kv = torch.zeros(64, shape.kv_heads, shape.head_dim, dtype=shape.dtype)
    prompt_kv = prompt_kv.to(shape.device)
    cache.add([[(prompt_kv, prompt_kv)] * shape.layers] * 2)
    before = cache.nbytes
    for _ in range(512):
        cache.extend()
    per_token = (cache.nbytes - before) / (2 * 512)
    exact = float(shape.bytes_per_token)
    return {"bytes_per_token": per_token, "kv_bytes": exact, "ratio": per_token / exact}


def invariance() -> dict[str, Any]:
    """ume-nano in bfloat16: items alone against one batch, default and invariant."""
    items = [Image(p) for p in sorted(GALLERY.glob("*.png"))[:40]]
    found: dict[str, Any] = {}
    for invariant in (False, True):
        own = TorchOptions(invariant=invariant)
        engine = TorchEmbedder(ume_nano.path(), LoadOptions(dtype="bfloat16"), own)
        began = time.perf_counter()
        whole = engine.embed(items, mode="both", max_new_tokens=64)
        seconds = time.perf_counter() - began
        alone = [engine.embed([i], mode="both", max_new_tokens=64) for i in items]
        assert whole.disc is not None and whole.gen is not None
        same = [a.records[0].samples == r.samples
                for a, r in zip(alone, whole.records, strict=True)]  # fmt: skip
        discs = np.stack([a.vectors("disc")[0] for a in alone])
        gens = np.stack([a.vectors("gen")[0] for a in alone])
        found["invariant" if invariant else "default"] = {
            "least_cosine_disc": float((discs * whole.disc).sum(1).min()),
            "least_cosine_gen": float((gens * whole.gen).sum(1).min()),
            "least_cosine_gen_same_text": float(
                min((g @ w for g, w, s in zip(gens, whole.gen, same, strict=True) if s), default=1)
            ),
            "identical_texts": sum(same), "items": len(items), "batch_seconds": seconds,
        }  # fmt: skip
    return found


def thinking() -> list[dict[str, Any]]:
    """ume-nano on the gallery: what less thinking costs and saves."""
    pictures = sorted(p for p in GALLERY.glob("*.png"))
    items = [Image(p) for p in pictures]
    names = [p.stem.replace("-", " ") for p in pictures]
    rows: list[dict[str, Any]] = []
    full: Any = None
    for options in (
        LoadOptions(), LoadOptions(thinking="short", thinking_tokens=4),
        LoadOptions(thinking="none"), LoadOptions(thinking="skip"),
    ):  # fmt: skip
        engine = TorchEmbedder(ume_nano.path(), options)
        began = time.perf_counter()
        seen = engine.embed(items, mode="gen", max_new_tokens=64)
        seconds = time.perf_counter() - began
        words = engine.embed(names, mode="gen", max_new_tokens=64)
        if full is None:
            full = seen.vectors("gen")
        order = np.argsort(-words.vectors("gen") @ seen.vectors("gen").T, axis=1)
        ranks = [int(np.flatnonzero(row == i)[0]) for i, row in enumerate(order)]
        rows.append(
            {
                "thinking": seen.signature.thinking,
                "tokens": float(np.mean([r.generated_tokens for r in seen.records])),
                "seconds": seconds,
                "mean_cosine_to_full": float((seen.vectors("gen") * full).sum(1).mean()),
                "hit_at_1": float(np.mean([r < 1 for r in ranks])),
                "hit_at_5": float(np.mean([r < 5 for r in ranks])),
                "items": len(items),
            }
        )
    return rows


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
