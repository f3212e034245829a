"""What the engine does to be fast must not show in its answers."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ume_core import Image, InvalidOption, LimitExceeded, LoadOptions, Sampling
from ume_core.items import ItemLike
from ume_core.results import EmbeddingResult
from ume_core.testing.contract import mixed_items, picture
from ume_torch import TorchEmbedder
from ume_torch.attention import find_varlen
from ume_torch.decoder import Decoder
from ume_torch.kv import KeyValues
from ume_torch.memory import is_out_of_memory
from ume_torch.options import TorchOptions
from ume_torch.runner import Kernels
from ume_torch.steps import CudaRecorder
from ume_torch.testing.kernels import Kernel

Make = Callable[[str], Path]
KINDS = ["qwen2_vl", "qwen2_5_vl"]


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint(request.param))


@pytest.fixture(scope="module")
def qwen2(checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint("qwen2_vl"))


def close(a: EmbeddingResult, b: EmbeddingResult, rows: list[int] | None = None) -> None:
    """The same vectors and texts; `rows` maps a's items to b's."""
    order = rows if rows is not None else list(range(len(a)))
    for mine, theirs in ((a.disc, b.disc), (a.gen_samples, b.gen_samples)):
        if mine is not None and theirs is not None:
            assert np.abs(mine - theirs[order]).max() < 1e-5
    assert [r.samples for r in a.records] == [b.records[i].samples for i in order]


def many_items() -> list[ItemLike]:
    """Texts of many lengths with common beginnings, equal items, pictures that repeat."""
    rng = np.random.default_rng(5)
    texts = ["Find: " + "".join(map(chr, rng.integers(97, 122, n))) for n in (1, 3, 30, 60, 120)]
    same = picture(3, 84, 56)
    return [
        *mixed_items(), *texts, texts[2], Image(same), Image(same.copy()),
        {"image": same, "text": "what?"}, {"images": [same, picture(4)], "text": "which?"},
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["disc", "both"])
def test_alone_in_any_batch_and_in_any_order(engine: TorchEmbedder, mode: Any) -> None:
    items = many_items()
    whole = engine.embed(items, mode=mode, max_new_tokens=6)
    order = np.random.default_rng(1).permutation(len(items)).tolist()
    close(engine.embed([items[i] for i in order], mode=mode, max_new_tokens=6), whole, order)
    for i, item in enumerate(items):
        close(engine.embed([item], mode=mode, max_new_tokens=6), whole, [i])


@pytest.mark.parametrize(
    "options", [{"gen_rows": 1}, {"gen_rows": 3}, {"batch_tokens": 300}, {"media_cache_bytes": 0}]
)
def test_budgets_and_caches_do_not_show(
    checkpoint: Make, qwen2: TorchEmbedder, options: dict[str, Any]
) -> None:
    other = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=TorchOptions(**options))
    expected = qwen2.embed(many_items(), mode="both", max_new_tokens=9)
    close(other.embed(many_items(), mode="both", max_new_tokens=9), expected)
    sampling = Sampling(n=3, seed=4)
    expected = qwen2.embed(many_items()[:6], mode="gen", sampling=sampling, max_new_tokens=9)
    close(other.embed(many_items()[:6], mode="gen", sampling=sampling, max_new_tokens=9), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_invariant_engines_answer_bit_for_bit(checkpoint: Make, dtype: str) -> None:
    engine = TorchEmbedder(
        checkpoint("qwen2_vl"), LoadOptions(dtype=dtype), TorchOptions(invariant=True)
    )
    items = many_items()
    whole = engine.embed(items, mode="both", max_new_tokens=6)
    assert whole.disc is not None and whole.gen is not None
    for i in reversed(range(len(items))):
        alone = engine.embed([items[i]], mode="both", max_new_tokens=6)
        assert alone.disc is not None and alone.gen is not None
        assert (alone.disc[0] == whole.disc[i]).all() and (alone.gen[0] == whole.gen[i]).all()
        assert alone.records[0].samples == whole.records[i].samples


@pytest.mark.parametrize("library", ["flash_attention_2", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_call_for_all_segments_means_the_same_as_the_loop(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, library: str, kind: str
) -> None:
    import torch.nn.attention.varlen as torchs

    expected = TorchEmbedder(checkpoint(kind)).embed(many_items(), mode="both", max_new_tokens=4)
    kernel = Kernel()
    fake = types.ModuleType("flash_attn")
    fake.__spec__ = ModuleSpec("flash_attn", None)  # transformers looks for it
    fake.flash_attn_varlen_func = kernel.flash_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    assert {"window_size", "enable_gqa"} <= set(inspect.signature(torchs.varlen_attn).parameters)
    monkeypatch.setattr(torchs, "varlen_attn", kernel.torch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    varlen = find_varlen(library, "cuda", "bfloat16")
    assert varlen is not None
    again = TorchEmbedder(checkpoint(kind), kernels=Kernels(varlen))
    for _ in range(2):  # the second time with cached prefixes
        close(again.embed(many_items(), mode="both", max_new_tokens=4), expected)
    assert kernel.calls > 0


def test_no_kernel_is_taken_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find_varlen("sdpa", "cpu", "bfloat16") is None
    assert find_varlen("sdpa", "cuda", "float32") is None
    assert find_varlen("sdpa", "cuda", "bfloat16") is None


def test_a_picture_that_comes_again_is_computed_once(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ume_torch.vision as vision

    seen: list[int] = []
    original = vision.encode_visuals

    def counted(visual: Any, media: Any, varlen: Any) -> Any:
        seen.append(len(media))
        return original(visual, media, varlen)

    monkeypatch.setattr(vision, "encode_visuals", counted)
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    same = picture(3, 84, 56)
    engine.embed([Image(same), Image(same.copy()), {"image": same, "text": "a"}])
    assert sum(seen) == 1
    engine.embed([Image(same), Image(picture(9, 84, 56))])
    assert sum(seen) == 2
    engine.embed(["a", "b", "c"])  # the blank picture
    engine.embed(["d"])
    assert sum(seen) == 3


class Scarce:
    """Raises torch's own error where more than `rows` rows or `tokens` tokens run at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int) -> None:
        prefill, step = Decoder.prefill, Decoder.step
        self.refused = 0

        def short_prefill(decoder: Any, pack: Any, *args: Any, **named: Any) -> Any:
            if pack.tokens > tokens:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return prefill(decoder, pack, *args, **named)

        def short_step(decoder: Any, feed: Any, *args: Any) -> Any:
            if feed.shape[1] > rows:
                self.refused += 1
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
            return step(decoder, feed, *args)

        monkeypatch.setattr(Decoder, "prefill", short_prefill)
        monkeypatch.setattr(Decoder, "step", short_step)


@pytest.mark.parametrize("mode", ["disc", "both"])
def test_out_of_memory_halves_and_says_so_and_loses_nothing(
    checkpoint: Make, qwen2: TorchEmbedder, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    items = many_items()
    expected = qwen2.embed(items, mode=mode, max_new_tokens=9)
    short = TorchEmbedder(checkpoint("qwen2_vl"))
    scarce = Scarce(monkeypatch, tokens=700 if mode == "both" else 200, rows=3)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        close(short.embed(items, mode=mode, max_new_tokens=9), expected)
    assert scarce.refused > 0


class Tape:
    """What a CUDA graph does, on a CPU: runs nothing when recorded; on replay, what was recorded,
    on the same memory and into the same memory. `fails` is raised by the second recording and as
    many after it as `times` says."""

    def __init__(self, fails: Exception | None = None, times: int = 1) -> None:
        self.usable = True
        self.recorded = self.replayed = self.open = 0
        self._fails, self._times = fails, times
        self._looking = False
        self._memory: list[int] = []

    def session(self) -> Tape:
        self.open += 1
        return self

    def close(self) -> None:
        self.open -= 1

    def __call__(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        if self._fails is not None and 2 <= self.recorded < 2 + self._times:
            raise self._fails
        self._looking = True
        work()
        self._looking = False
        recorded_on = self._memory
        out: torch.Tensor | None = None

        def replay() -> torch.Tensor:
            nonlocal out
            self.replayed += 1
            states = work()
            assert self._memory == recorded_on
            out = states.clone() if out is None else out.copy_(states)
            return out

        return replay

    def watch(self, decoder: Any) -> None:
        """See the memory that the decoder's steps work on."""
        step = decoder.step

        def watched(feed: torch.Tensor, cache: KeyValues, width: int) -> torch.Tensor:
            layers = [cache.layer(n) for n in range(cache.shape.layers)]
            self._memory = [feed.data_ptr(), *(t.data_ptr() for kv in layers for t in kv), width]
            return feed if self._looking else step(feed, cache, width)

        decoder.step = watched


def taped(directory: Path, tape: Tape, options: TorchOptions) -> TorchEmbedder:
    """An engine that decodes by the tape, with room that grows often."""
    kernels = Kernels(recorder=tape, block=8)
    engine = TorchEmbedder(directory, engine_options=options, kernels=kernels)
    tape.watch(engine.runner.decoder)
    return engine


@pytest.mark.parametrize(
    ("kind", "samples"), [*((kind, None) for kind in KINDS), (KINDS[0], Sampling(n=3, seed=4))]
)
def test_replayed_steps_do_not_show(checkpoint: Make, kind: str, samples: Sampling | None) -> None:
    rows = TorchOptions(gen_rows=7)
    engine = TorchEmbedder(checkpoint(kind), engine_options=rows)
    short: list[ItemLike] = ["a", "bcd", "efghijkl"]  # the room grows while they are answered
    parts = [many_items()[: 5 if samples else None], short, [short[0]]]
    options: dict[str, Any] = {"mode": "both", "sampling": samples, "max_new_tokens": 24}
    expected = [engine.embed(part, **options) for part in parts]
    tape = Tape()
    engine = taped(checkpoint(kind), tape, rows)
    for part, right in zip(parts, expected, strict=True):
        close(engine.embed(part, **options), right)
    assert tape.usable and tape.replayed > 20 and tape.recorded > 5 and tape.open == 0


@pytest.mark.parametrize(
    ("error", "times", "usable"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), 1, False),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, True),
    ],
)
def test_a_recording_that_fails_costs_no_answer(
    checkpoint: Make, error: Exception, times: int, usable: bool
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    expected = engine.embed(many_items(), mode="gen", max_new_tokens=30)
    tape = Tape(error, times)
    engine = taped(checkpoint("qwen2_vl"), tape, TorchOptions())
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be recorded"):
        close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert tape.usable is usable
    recorded = tape.recorded
    close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert (tape.recorded > recorded) is usable  # the next call tries again, or does not


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_recording_without_memory_is_tried_again_when_some_was_given_back(
    checkpoint: Make,
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    expected = engine.embed(many_items(), mode="gen", max_new_tokens=30)
    tape = Tape(torch.OutOfMemoryError("CUDA out of memory"))
    engine = taped(checkpoint("qwen2_vl"), tape, TorchOptions())
    close(engine.embed(many_items(), mode="gen", max_new_tokens=30), expected)
    assert tape.recorded > 3 and tape.open == 0


class FakeGraph:
    """What `torch.cuda.CUDAGraph` is told, in `said`; `fails` is raised by `capture_end`."""

    said: ClassVar[list[Any]] = []
    fails: ClassVar[Exception | None] = None

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        self.said.append((pool, capture_error_mode))

    def capture_end(self) -> None:
        if self.fails is not None:
            raise self.fails


def test_a_cache_at_a_time_has_a_stream_and_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    ended: list[Any] = []
    pools = iter("ab")
    monkeypatch.setattr(FakeGraph, "said", said)
    fakes: dict[str, Any] = {
        "CUDAGraph": FakeGraph, "Stream": lambda _: object(), "stream": nullcontext,
        "graph_pool_handle": lambda: next(pools), "device": nullcontext,
        "current_device": lambda: 0,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *a: ended.append(a), raising=False)
    recorder = CudaRecorder(torch.device("cpu"))
    first, second = recorder.session(), recorder.session()
    for session in (first, second, first):
        session(lambda: torch.ones(1))
    # A pool's first graph is the one that keeps it alive.
    assert said == [(pool, "thread_local") for pool in "aabba"]
    second.close()
    assert recorder.session() is second  # the memory of graphs that are gone is used again
    assert ended == []
    failure = RuntimeError("operation failed due to a previous error during capture")
    monkeypatch.setattr(FakeGraph, "fails", failure)
    with pytest.raises(RuntimeError, match="previous error"):
        second(lambda: torch.ones(1))
    assert ended == [(0, "b")] * 2


@pytest.mark.parametrize("place", ["room", "layer"])
@pytest.mark.parametrize("thinking", ["full", "none"])
def test_a_failure_at_any_place_leaves_no_trace(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, place: str, thinking: str
) -> None:
    """One allocation fails, the k-th of its kind; whatever was half done is done again."""
    options = LoadOptions(thinking=thinking)
    narrow = TorchOptions(gen_rows=3, batch_tokens=700)
    engine = TorchEmbedder(checkpoint("qwen2_vl"), options, narrow)
    # Lengths on both sides of a block's border, so that room grows while rows run.
    items = ["a" * n for n in (1, 20, 40, 60)]
    sampling = Sampling(n=2, seed=3)

    def run() -> EmbeddingResult:
        return engine.embed(items, mode="both", sampling=sampling, max_new_tokens=10)

    expected = run()
    calls = 0
    fail_at = -1

    def counted(original: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            real = args[1:] != (0, 0)  # an empty room needs no memory
            calls += real
            if real and calls == fail_at:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
            return original(*args, **named)

        return call

    if place == "room":
        monkeypatch.setattr(KeyValues, "allocate", counted(KeyValues.allocate))
    else:
        for layer in engine.runner.decoder.layers:
            monkeypatch.setattr(layer.mlp, "forward", counted(layer.mlp.forward))
    close(run(), expected)
    total = calls
    assert total > 10
    for fail_at in np.unique(np.linspace(1, total - 1, 6).astype(int)).tolist():
        calls = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(run(), expected)
        assert calls > fail_at


def test_what_torch_says_without_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_nan_item_fails_alone(qwen2: TorchEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    original = type(qwen2.runner).disc

    def with_nan(runner: Any, prompts: Any) -> Any:
        states: Any = original(runner, prompts)
        return [torch.full_like(s, torch.nan) if len(p.ids) > 150 else s
                for s, p in zip(states, prompts, strict=True)]  # fmt: skip

    monkeypatch.setattr(type(qwen2.runner), "disc", with_nan)
    found = qwen2.embed(["a", "b" * 300, "c"], on_error="record")
    assert found.failed == [1] and "NaN" in str(found.records[1].reason)


def test_an_item_too_large_alone_fails_alone(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEmbedder(checkpoint("qwen2_vl"))
    items = ["a", "x" * 3000, "b"]
    for mode in ("disc", "gen"):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Scarce(patch, tokens=2000, rows=99)
            found = engine.embed(items, mode=mode, max_new_tokens=3, on_error="record")
            assert [r.status == "failed" for r in found.records] == [False, True, False]
            with pytest.raises(LimitExceeded, match=r"item 1.*memory even alone.*Fix"):
                engine.embed(items, mode=mode, max_new_tokens=3)
    with monkeypatch.context() as patch:
        Scarce(patch, tokens=9999, rows=0)
        found = engine.embed(["a"], mode="gen", max_new_tokens=3, on_error="record")
        assert found.failed == [0]


def test_short_no_and_skipped_thinking_say_what_they_are(
    checkpoint: Make, qwen2: TorchEmbedder
) -> None:
    full = qwen2.embed(["a text"], mode="both", max_new_tokens=20)
    cases = (
        (LoadOptions(thinking="none"), "<think></think><answer>", "none"),
        (LoadOptions(thinking="skip"), "<gen_emb>", "skip"),
        (LoadOptions(thinking="short", thinking_tokens=2), "</think><answer>", "short-2"),
    )
    for options, text, name in cases:
        engine = TorchEmbedder(checkpoint("qwen2_vl"), options)
        found = engine.embed(["a text"], mode="both", max_new_tokens=20)
        sample = found.records[0].samples[0]
        assert text in sample.text and sample.text.endswith("<gen_emb>")
        assert found.gen is not None and full.gen is not None
        assert np.abs(found.gen - full.gen).max() > 1e-4
        assert found.signature.for_mode("gen").differences(full.signature.for_mode("gen")) == [
            f"thinking: {name} != full"
        ]
        # disc stands before the answer: the same vectors, comparable.
        assert found.disc is not None and full.disc is not None
        assert np.abs(found.disc - full.disc).max() < 1e-6
        found.signature.for_mode("disc").check(full.signature.for_mode("disc"))
    skipped = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(thinking="skip"))
    assert skipped.embed(["a"], mode="gen").records[0].generated_tokens == 0
    with pytest.raises(InvalidOption, match="unknown thinking"):
        TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(thinking="some"))


def test_the_gen_cache_answers_without_the_model_and_only_for_the_same_question(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TorchOptions(gen_cache=tmp_path / "answers.db")
    first = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=options)
    items = many_items()
    expected = first.embed(items, mode="both", max_new_tokens=5)
    again = TorchEmbedder(checkpoint("qwen2_vl"), engine_options=options)
    with monkeypatch.context() as patch:
        Scarce(patch, tokens=0, rows=0)
        close(again.embed(items[::-1], mode="both", max_new_tokens=5)
              , expected, list(range(len(items)))[::-1])  # fmt: skip
        for other in (
            {"max_new_tokens": 6}, {"sampling": Sampling(n=2)}, {"instruction": "Find:"},
        ):  # fmt: skip
            call: dict[str, Any] = {"max_new_tokens": 5} | other
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = again.embed(["a red apple"], mode="gen", on_error="record", **call)
            assert found.failed == [0]
    (tmp_path / "no.db").write_bytes(b"not a database, but long enough to look like a file" * 9)
    with pytest.raises(InvalidOption, match="gen cache"):
        TorchEmbedder(checkpoint("qwen2_vl"), None, TorchOptions(gen_cache=tmp_path / "no.db"))


def test_jpeg_drafts_are_other_pixels_and_say_so(checkpoint: Make, tmp_path: Path) -> None:
    picture(1, 900, 700).save(tmp_path / "a.jpg", quality=95)
    picture(1, 900, 700).save(tmp_path / "a.png")
    item = [Image(tmp_path / "a.jpg", max_pixels=112 * 112)]
    exact = TorchEmbedder(checkpoint("qwen2_vl")).embed(item)
    engine = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(jpeg_draft=True))
    draft = engine.embed(item)
    assert exact.disc is not None and draft.disc is not None
    assert 1e-6 < np.abs(exact.disc - draft.disc).max() < 0.2
    assert exact.records[0].prompt_tokens == draft.records[0].prompt_tokens
    assert draft.signature.differences(exact.signature) == ["decoding: draft != exact"]
    png = [Image(tmp_path / "a.png")]
    close(engine.embed(png), TorchEmbedder(checkpoint("qwen2_vl")).embed(png))
