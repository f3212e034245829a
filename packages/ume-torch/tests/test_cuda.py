"""The PyTorch engine on a CUDA device; every test is skipped where there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ume_core import LoadOptions, Sampling
from ume_core.results import EmbeddingResult
from ume_core.testing import EmbedderContract
from ume_core.testing.contract import mixed_items
from ume_torch import TorchEmbedder
from ume_torch.attention import Segments, find_varlen
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels
from ume_torch.testing.kernels import Kernel

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="not run: this machine has no CUDA device"
)
Make = Callable[[str], Path]
KINDS = ["qwen2_vl", "qwen2_5_vl"]
# FlashAttention-2 takes half precision only; float32 decodes by graphs all the same.
FLOAT32, BFLOAT16 = LoadOptions(device="cuda", dtype="float32"), LoadOptions(device="cuda")
WITHOUT_GRAPHS = TorchOptions(cuda_graphs=False)


class TestCudaQwen2(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, checkpoint: Make) -> TorchEmbedder:
        return TorchEmbedder(checkpoint("qwen2_vl"), FLOAT32)


class TestCudaQwen25(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, checkpoint: Make) -> TorchEmbedder:
        return TorchEmbedder(checkpoint("qwen2_5_vl"), FLOAT32)


def _least_cosine(a: EmbeddingResult, b: EmbeddingResult, mode: Any = "disc") -> float:
    return float((a.vectors(mode) * b.vectors(mode)).sum(axis=1).min())


def _texts(result: EmbeddingResult) -> list[list[str]]:
    return [[s.text for s in r.samples] for r in result.records]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_the_cpus(checkpoint: Make, kind: str) -> None:
    there = TorchEmbedder(checkpoint(kind), FLOAT32)
    here = TorchEmbedder(checkpoint(kind), LoadOptions(device="cpu"))
    a = there.embed(mixed_items(), mode="both", max_new_tokens=16)
    b = here.embed(mixed_items(), mode="both", max_new_tokens=16)
    assert np.abs(a.vectors("disc") - b.vectors("disc")).max() < 1e-4
    assert _texts(a) == _texts(b)
    assert np.abs(a.vectors("gen") - b.vectors("gen")).max() < 1e-4


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "causal"), [(12, 2, 128, True), (16, 16, 80, False)]
)
def test_the_kernel_means_what_is_documented(
    heads: int, kv_heads: int, dim: int, causal: bool
) -> None:
    varlen = find_varlen("sdpa", "cuda", "bfloat16")
    assert varlen is not None, "torch's FlashAttention-2 was not found"
    seen = [9, 70, 1, 33]
    asked = [9, 20, 1, 5] if causal else seen
    torch.manual_seed(0)
    q = torch.randn(sum(asked), heads, dim, device="cuda", dtype=torch.bfloat16)
    both = torch.randn(sum(seen), 2, kv_heads, dim, device="cuda", dtype=torch.bfloat16)
    k, v = both.unbind(1)
    queries, keys = (Segments.of(n, q.device) for n in (asked, seen))
    found = varlen(q, k, v, queries, keys, causal=causal)
    expected = Kernel().flash_attn(
        q.float().cpu(), k.float().cpu(), v.float().cpu(), cu_seqlens_q=queries.sums.cpu(),
        cu_seqlens_k=keys.sums.cpu(), max_seqlen_q=queries.longest, max_seqlen_k=keys.longest,
        causal=causal,
    )  # fmt: skip
    assert (found.float().cpu() - expected).abs().max() < 0.03  # values of about 1, 8 bits each


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_with_and_without_one_call_for_all_segments(checkpoint: Make, kind: str) -> None:
    exact = TorchEmbedder(checkpoint(kind), FLOAT32).embed(mixed_items())
    engine = TorchEmbedder(checkpoint(kind), BFLOAT16)
    assert engine.runner.decoder.varlen is not None
    looped = TorchEmbedder(checkpoint(kind), BFLOAT16, kernels=Kernels()).embed(mixed_items())
    for _ in range(2):  # the second time with cached prefixes
        at_once = engine.embed(mixed_items())
        assert _least_cosine(at_once, exact) > 0.99
        assert _least_cosine(at_once, looped) > 0.99


class Counted:
    """The recorder, counting what it did."""

    def __init__(self, engine: TorchEmbedder) -> None:
        self._real: Any = engine.runner.recorder
        self.recorded = self.replayed = 0
        runner: Any = engine.runner
        runner.recorder = self

    @property
    def usable(self) -> bool:
        return self._real.usable

    @usable.setter
    def usable(self, value: bool) -> None:
        self._real.usable = value

    def session(self) -> _CountedSession:
        return _CountedSession(self, self._real.session())


class _CountedSession:
    def __init__(self, counted: Counted, real: Any) -> None:
        self._counted, self._real = counted, real

    def __call__(self, work: Any) -> Any:
        replay = self._real(work)
        self._counted.recorded += 1

        def counted() -> Any:
            self._counted.replayed += 1
            return replay()

        return counted

    def close(self) -> None:
        self._real.close()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [None, Sampling(n=3, seed=2)])
def test_graphs_do_not_show(checkpoint: Make, kind: str, sampling: Sampling | None) -> None:
    options: dict[str, Any] = {"mode": "gen", "sampling": sampling, "max_new_tokens": 40}
    items = [*mixed_items(), *(f"text {i}" for i in range(12))]
    engine = TorchEmbedder(checkpoint(kind), FLOAT32)
    counted = Counted(engine)
    by_graph = engine.embed(items, **options)
    assert counted.replayed > counted.recorded > 0
    plain = TorchEmbedder(checkpoint(kind), FLOAT32, WITHOUT_GRAPHS)
    one_by_one = plain.embed(items, **options)
    assert _texts(by_graph) == _texts(one_by_one)
    a, b = by_graph.gen_samples, one_by_one.gen_samples
    assert a is not None and b is not None and np.abs(a - b).max() < 1e-4


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_in_bfloat16(checkpoint: Make, kind: str) -> None:
    """Texts are given, since rounding may choose other tokens: ten tokens, then `<gen_emb>`."""

    def embed(
        options: LoadOptions, own: TorchOptions | None = None, *, count: bool = False
    ) -> EmbeddingResult:
        engine = TorchEmbedder(checkpoint(kind), options, own)
        counted = Counted(engine) if count else None
        special = engine.prepare.tokenizer.special

        def pick(logits: Any, rows: Any) -> list[int]:  # noqa: ARG001
            return [special.gen if len(r.ids) == 10 else 65 + len(r.ids) for r in rows]

        engine.runner.pick = pick
        result = engine.embed(mixed_items(), mode="gen", max_new_tokens=20)
        assert counted is None or counted.replayed > 0
        return result

    by_graph = embed(BFLOAT16, count=True)
    assert _least_cosine(by_graph, embed(BFLOAT16, WITHOUT_GRAPHS), "gen") > 0.99
    assert _least_cosine(by_graph, embed(FLOAT32), "gen") > 0.99


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_threads_record_and_replay_at_the_same_time(checkpoint: Make) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"), FLOAT32)
    items = [[f"caller {i}, item {j}" for j in range(5)] for i in range(8)]
    alone = [engine.embed(part, mode="both", max_new_tokens=24) for part in items]
    counted = Counted(engine)
    found: dict[int, EmbeddingResult] = {}

    def call(number: int) -> None:
        found[number] = engine.embed(items[number], mode="both", max_new_tokens=24)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.replayed > 0
    for number, expected in enumerate(alone):
        assert _texts(found[number]) == _texts(expected)
        assert np.abs(found[number].vectors("gen") - expected.vectors("gen")).max() < 1e-4


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_graphs_of_many_calls_do_not_pile_up(checkpoint: Make) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"), FLOAT32)
    items = [f"text {i}" for i in range(6)]

    def held() -> int:
        engine.embed(items, mode="gen", max_new_tokens=40)
        torch.cuda.synchronize()
        return torch.cuda.memory_reserved()

    held()
    first = held()
    assert max(held() for _ in range(10)) <= first + (4 << 20)
