"""The engine on a stand-in for SGLang, against ume-torch; SGLang itself was not run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import ume_nano
from ume_core import EngineUnavailable, Image, InvalidOption, LimitExceeded, LoadOptions, Sampling
from ume_core.items import as_item
from ume_core.loading import load
from ume_core.session import open_session
from ume_core.testing import EmbedderContract
from ume_core.testing.contract import mixed_items
from ume_sglang.engine import SglangEmbedder
from ume_sglang.inputs import engine_input
from ume_sglang.options import SglangOptions
from ume_torch import TorchEmbedder

FLOAT32 = LoadOptions(dtype="float32")
GEN_END = "<gen_emb><|im_end|>"


@pytest.fixture
def fresh(engine: Any) -> Any:
    engine.script, engine.context = None, 4096
    engine.requests.clear()
    return engine


def embedder_on(engine: Any, options: LoadOptions = FLOAT32, **own: Any) -> SglangEmbedder:
    return SglangEmbedder(
        ume_nano.path(), options, SglangOptions(**own), make=lambda *arguments: engine
    )


class TestSglangNano(EmbedderContract):
    @pytest.fixture(scope="class")
    def embedder(self, engine: Any) -> SglangEmbedder:
        engine.script = None
        return embedder_on(engine)


@pytest.mark.parametrize("thinking", ["full", "short", "none", "skip"])
def test_vectors_and_greedy_texts_are_ume_torchs(fresh: Any, thinking: str) -> None:
    options = LoadOptions(dtype="float32", thinking=thinking, thinking_tokens=4)
    items = mixed_items() if thinking == "full" else mixed_items()[1:3]
    a, b = (
        e.embed(items, mode="both", max_new_tokens=24)
        for e in (embedder_on(fresh, options), TorchEmbedder(ume_nano.path(), options))
    )
    assert [r.samples for r in a.records] == [r.samples for r in b.records]
    for mode in ("disc", "gen"):
        np.testing.assert_allclose(a.vectors(mode), b.vectors(mode), atol=1e-5)
    assert a.signature == b.signature


@pytest.mark.parametrize(
    ("written", "budget", "text", "forced", "requests"),
    [
        (f"a dog{GEN_END}", 16, "a dog<gen_emb>", None, 2),
        (GEN_END, 16, "<gen_emb>", None, 2),
        (f"a dog<gen_emb> more{GEN_END}", 16, "a dog<gen_emb>", None, 3),
        ("a dog<gen_emb><gen_emb><|im_end|>", 16, "a dog<gen_emb>", None, 3),
        ("a dog<|im_end|>", 16, "a dog<gen_emb>", "ended its answer without", 3),
        ("<|im_end|>", 16, "<gen_emb>", "ended its answer without", 3),
        ("<|endoftext|>", 16, "<gen_emb>", "ended its answer without", 3),
        ("a a a a a a a a a a", 1, None, "within 1 tokens", 3),
        (f"<gen_emb> {GEN_END}", 1, "<gen_emb>", None, 2),  # cut where one token came after it
    ],
)
def test_every_ending(
    fresh: Any, written: str, budget: int, text: str | None, forced: str | None,
    requests: int,
) -> None:  # fmt: skip
    """disc's request, the answer's, and a prefill where the answer's state is not `<gen_emb>`'s."""
    mine = embedder_on(fresh)
    tokens = mine.prepare.tokenizer.encode_trusted(written)
    fresh.script = lambda prompt, output: tokens[len(output)] if len(output) < len(tokens) else 65
    result = mine.embed(["a"], mode="both", max_new_tokens=budget)
    (sample,) = result.records[0].samples
    assert text is None or sample.text == text
    assert (sample.reason or "").find(forced or "") >= 0 and (sample.reason is None) == (not forced)
    assert len(fresh.requests) == requests and fresh.open == 0
    # The vector is that of prompt and answer, fed up to <gen_emb>.
    prompt = mine.prepare(as_item("a"), gen=True)
    ids = [*prompt.ids.tolist(), *mine.prepare.tokenizer.encode_trusted(sample.text)]
    data = (engine_input(prompt, ids[len(prompt.ids) :])["image_data"] or [{}])[0]
    state = fresh.run(ids, data).numpy()
    expected = state / np.linalg.norm(state)
    np.testing.assert_allclose(result.vectors("gen")[0], expected, atol=1e-5)


def test_writing_on_is_stopped_and_what_nobody_wants_abandoned(fresh: Any) -> None:
    mine = embedder_on(fresh)
    gen = mine.prepare.tokenizer.special.gen
    fresh.script = lambda prompt, output: 65 if output else gen
    before = fresh.steps
    mine.embed(["a"], mode="gen", max_new_tokens=2000)
    assert fresh.steps - before < 100 and fresh.open == 0


@pytest.mark.parametrize("thinking", ["full", "short"])
def test_the_texts_told_are_together_the_answer(fresh: Any, thinking: str) -> None:
    mine = embedder_on(fresh, LoadOptions(dtype="float32", thinking=thinking, thinking_tokens=3))
    told: list[str] = []
    with open_session(mine) as session:
        future = session.submit(
            "a", mode="gen", max_new_tokens=24, on_token=lambda sample, text: told.append(text)
        )
        text = future.result().record.samples[0].text
    assert "".join(told) == text and len(told) > 2


def test_pictures_of_equal_pixels_and_another_shape_do_not_share_a_digest() -> None:
    mine = embedder_on(None)
    sizes = ((56, 112), (112, 56))
    inputs = [
        engine_input(mine.prepare(as_item(Image(PILImage.new("RGB", s, "red"))), gen=True), ())
        for s in sizes
    ]
    (a, b) = (i["image_data"][0] for i in inputs if i["image_data"])
    assert (a["pixel_values"] == b["pixel_values"]).all()
    assert a["image_grid_thw"].tolist() != b["image_grid_thw"].tolist()
    assert inputs[0]["mm_hashes"] != inputs[1]["mm_hashes"]
    assert all(len(h) == 16 for i in inputs for h in i["mm_hashes"] or [])


def test_sampling_needs_deterministic_kernels(fresh: Any) -> None:
    mine = embedder_on(fresh, deterministic=False)
    with pytest.raises(InvalidOption, match=r"item 0: .*seeds.*deterministic=True"):
        mine.embed(["a"], mode="gen", sampling=Sampling(), max_new_tokens=2)


def test_a_prompt_that_is_too_long_fails_alone(fresh: Any) -> None:
    fresh.context = 300
    result = embedder_on(fresh).embed(["a", "dog " * 400], on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed"]
    with pytest.raises(LimitExceeded, match=r"item 1: SGLang refuses.*longer.*Fix: shorten"):
        embedder_on(fresh).embed(["a", "dog " * 400])


def test_an_engine_that_does_not_start_says_so() -> None:
    def broken(*_: Any) -> Any:
        raise EngineUnavailable("SGLang does not load it: no GPU", fix="see its log")

    model = SglangEmbedder(ume_nano.path(), FLOAT32, make=broken)
    with pytest.raises(EngineUnavailable, match="no GPU"):
        model.embed(["a"])


@pytest.mark.skipif(find_spec("sglang") is not None, reason="SGLang is installed")
def test_where_it_is_missing_the_message_names_what_works() -> None:
    with pytest.raises(EngineUnavailable, match=r"needs sglang \(pip .*another engine: .*torch"):
        load(ume_nano.path(), engine="sglang")


def test_a_cpu_is_refused_with_the_fix() -> None:
    with pytest.raises(InvalidOption, match=r"computes on GPUs.*engine='torch'"):
        SglangEmbedder(ume_nano.path(), LoadOptions(device="cpu"))


@pytest.mark.parametrize(
    ("name", "value"), [("rows", 0), ("tensor_parallel", 0), ("gpu_memory", 1.5), ("context", 0)]
)
def test_options_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=rf"{name} is .*Fix: "):
        SglangOptions(**{name: value})
