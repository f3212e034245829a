"""The PyTorch engine: loading, limits, threads, sampling, options."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ume_r1
from ume_core import (
    CheckpointError,
    Image,
    InvalidOption,
    LimitExceeded,
    Limits,
    LoadOptions,
    Sampling,
    Video,
)
from ume_core.testing.contract import mixed_items, picture
from ume_qwen.checkpoint import find_checkpoint
from ume_torch import TorchEmbedder

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def engine(checkpoint: Make) -> TorchEmbedder:
    return TorchEmbedder(checkpoint("qwen2_vl"))


def test_threads_share_one_engine(engine: TorchEmbedder) -> None:
    items = mixed_items()
    expected = engine.embed(items, mode="both", max_new_tokens=6)
    found: list[tuple[int, float]] = []

    def work(row: int) -> None:
        for _ in range(3):
            result = engine.embed([items[row]], mode="both", max_new_tokens=6)
            assert result.gen is not None and expected.gen is not None
            found.append((row, float(np.abs(result.gen[0] - expected.gen[row]).max())))

    threads = [threading.Thread(target=work, args=(row,)) for row in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * len(items)
    assert max(difference for _, difference in found) < 1e-5


def test_bf16_stays_near_float32_and_says_so(checkpoint: Make, engine: TorchEmbedder) -> None:
    half = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(dtype="bfloat16"))
    ours, exact = half.embed(mixed_items()).disc, engine.embed(mixed_items()).disc
    assert ours is not None and exact is not None
    assert (ours * exact).sum(axis=1).min() > 0.99
    assert half.signature("disc").differences(engine.signature("disc")) == [
        "dtype: bfloat16 != float32"
    ]


@pytest.mark.parametrize("native", [True, False])
def test_bf16_where_the_cpu_has_none_is_said_to_be_slow(
    native: bool, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ume_torch.engine.cpu_has_bfloat16", lambda: native)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(dtype="bfloat16", device="cpu"))
        TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(device="cpu"))
    slow = [str(w.message) for w in said if "no bfloat16 matrices" in str(w.message)]
    assert len(slow) == (0 if native else 1)


def test_prompt_policy_and_order_change_vectors_and_signature(checkpoint: Make) -> None:
    items = ["a text", ["before ", Image(picture(1)), " after"]]
    base = TorchEmbedder(checkpoint("qwen2_vl"))
    plain = base.embed(items, mode="both", max_new_tokens=4)
    changes: list[tuple[dict[str, Any], int]] = [
        ({"text_only": "plain"}, 0),
        ({"media_order": "given"}, 1),
        ({"prompt": "readme"}, 0),
        ({"max_pixels": 4000}, 1),
    ]
    for change, row in changes:
        other = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(**change))
        result = other.embed(items, mode="both", max_new_tokens=4)
        assert result.gen is not None and plain.gen is not None
        assert np.abs(result.gen[row] - plain.gen[row]).max() > 1e-4
        assert len(result.signature.differences(plain.signature)) == 1


def test_special_tokens_typed_by_a_user_do_not_move_the_embedding(engine: TorchEmbedder) -> None:
    """The state is taken at the template's own `<disc_emb>`, whose index the prompt fixes."""
    special = engine.prepare.tokenizer.special
    for typed in ("<disc_emb>", "<gen_emb>", "<|image_pad|>", "<|vision_start|>"):
        item = ume_r1.Item((ume_r1.Text(f"{typed} x {typed}"), Image(picture(2))))
        prompt = engine.prepare(item, gen=True)
        ids = prompt.ids.tolist()
        assert ids.count(special.disc) == 1 and ids.index(special.disc) == prompt.disc_index
        assert ids.count(special.gen) == 1  # the one of the generation prompt
        assert ids.count(special.image) == prompt.media[0].tokens


def test_limits_are_checked_before_the_model_runs(checkpoint: Make, engine: TorchEmbedder) -> None:
    limits = Limits(image_pixels=10_000, text_chars=50, input_tokens=120, video_frames=4)
    tight = TorchEmbedder(checkpoint("qwen2_vl"), LoadOptions(limits=limits))
    big, long = Image(picture(1, 200, 200)), "word " * 100
    for bad, name in (
        (big, "image_pixels"),
        (long, "text_chars"),
        (["one ", "two " * 9, *[Image(picture(1))] * 9], "input_tokens"),
        (Video([picture(1)] * 6), "video_frames"),
    ):
        with pytest.raises(LimitExceeded, match=rf"limits\.{name}.*Fix"):
            tight.embed(["ok", bad])
    with pytest.raises(LimitExceeded, match="context"):
        engine.embed(["a"], mode="gen", max_new_tokens=40_000)


def test_sampling_has_its_place(engine: TorchEmbedder) -> None:
    with pytest.raises(InvalidOption, match="disc mode"):
        engine.embed(["a"], sampling=Sampling())
    with pytest.raises(InvalidOption, match="max_new_tokens"):
        engine.embed(["a"], mode="gen", max_new_tokens=0)
    one = engine.embed(["a"], mode="gen", sampling=Sampling(n=2, seed=1), max_new_tokens=5)
    two = engine.embed(["a"], mode="gen", sampling=Sampling(n=2, seed=2), max_new_tokens=5)
    assert one.records[0].samples != two.records[0].samples
    # One likely token: sampling becomes greedy.
    cold = engine.embed(["a"], mode="gen", sampling=Sampling(top_k=1), max_new_tokens=5)
    greedy = engine.embed(["a"], mode="gen", max_new_tokens=5)
    assert cold.records[0].samples == greedy.records[0].samples


def test_a_published_style_save_loads_again_with_equal_vectors(
    checkpoint: Make, engine: TorchEmbedder, tmp_path: Path
) -> None:
    """`save_pretrained` of this transformers version, with its own key and config layout."""
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    source = checkpoint("qwen2_vl")
    model = Qwen2VLForConditionalGeneration.from_pretrained(source, torch_dtype=torch.float32)
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "chat_template.json"):
        shutil.copy(source / name, tmp_path)
    again = TorchEmbedder(tmp_path).embed(mixed_items(), mode="both", max_new_tokens=5)
    first = engine.embed(mixed_items(), mode="both", max_new_tokens=5)
    assert again.gen is not None and first.gen is not None
    np.testing.assert_allclose(again.gen, first.gen, atol=1e-6)
    assert [r.samples for r in again.records] == [r.samples for r in first.records]


def _without(source: Path, target: Path, *names: str) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names))
    return target


def test_a_directory_that_is_no_checkpoint_says_what_is_missing(
    checkpoint: Make, tmp_path: Path
) -> None:
    source = checkpoint("qwen2_vl")
    for number, name in enumerate(
        ("config.json", "model.safetensors", "tokenizer.json", "chat_template.json")
    ):
        broken = _without(source, tmp_path / str(number), name)
        with pytest.raises(CheckpointError, match=r"(has no|no chat).*Fix"):
            TorchEmbedder(broken)
    other = _without(source, tmp_path / "other")
    config = json.loads((other / "config.json").read_text()) | {"model_type": "llama"}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="qwen2_vl or qwen2_5_vl"):
        TorchEmbedder(other)
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        TorchEmbedder(tmp_path / "nowhere")


def test_a_checkpoint_without_the_tokens_or_with_damaged_weights_is_refused(
    checkpoint: Make, tmp_path: Path
) -> None:
    source = checkpoint("qwen2_vl")
    plain = _without(source, tmp_path / "plain")
    text = (plain / "tokenizer.json").read_text().replace("<disc_emb>", "<other>")
    (plain / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="no <disc_emb> token"):
        TorchEmbedder(plain)
    cut = _without(source, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut"):
        TorchEmbedder(cut)


@pytest.mark.parametrize(
    "wrong",
    [{"device": "tpu9"}, {"device": "mps"}, {"dtype": "int3"}, {"attention": "magic"},
     {"prompt": "x"}, {"text_only": "x"}, {"media_order": "x"}, {"conventions": "x"},
     {"frame_lists": "x"}, {"min_pixels": 0}, {"max_pixels": 10}, {"no_such": 1}, {"engine": "x"}],
    ids=str,
)  # fmt: skip
def test_wrong_options_list_the_right_ones(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"Fix: "):
        ume_r1.load("ume-nano", **wrong)


def test_only_safetensors_are_ever_loaded(checkpoint: Make, tmp_path: Path) -> None:
    pickled = _without(checkpoint("qwen2_vl"), tmp_path / "p", "model.safetensors")
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never loaded"):
        TorchEmbedder(pickled)


def test_an_index_of_weights_cannot_name_pickles_or_other_places(
    checkpoint: Make, tmp_path: Path
) -> None:
    source = checkpoint("qwen2_vl")
    for number, name in enumerate(("evil.bin", "../outside.safetensors", "missing.safetensors")):
        directory = _without(source, tmp_path / str(number), "model.safetensors")
        shutil.copy(source / "model.safetensors", directory / "decoy.safetensors")
        index = {"weight_map": {"lm_head.weight": name}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match="Fix"):
            TorchEmbedder(directory)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "qwen2_vl"}'),
        ("config.json", "[" * 100_000),
        ("tokenizer.json", "[]"),
        ("preprocessor_config.json", '{"image_mean": "5"}'),
        ("chat_template.json", '{"chat_template": "{{ 1 / 0 }}"}'),
        ("chat_template.json", '{"chat_template": "{% include \'x\' %}"}'),
        ("chat_template.json", '{"chat_template": "no content at all"}'),
    ],
)
def test_malformed_files_are_checkpoint_errors(
    checkpoint: Make, tmp_path: Path, name: str, content: str
) -> None:
    directory = _without(checkpoint("qwen2_vl"), tmp_path / "c")
    (directory / name).write_text(content)
    with pytest.raises(CheckpointError, match="Fix"):
        TorchEmbedder(directory)


def test_a_digest_covers_all_that_decides_a_vector(checkpoint: Make, tmp_path: Path) -> None:
    source = checkpoint("qwen2_vl")
    digest = find_checkpoint(source).digest()

    def changed(name: str, old: str, new: str) -> str:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(source, directory)
        text = (directory / name).read_text("utf-8")
        assert old in text
        (directory / name).write_text(text.replace(old, new, 1), "utf-8")
        return find_checkpoint(directory).digest()

    assert changed("config.json", "{", '{"transformers_version": "9.9", ') == digest
    found = {
        digest,
        changed("config.json", "1000000", "10000"),
        changed("preprocessor_config.json", "0.4814", "0.5814"),
        changed("chat_template.json", "assistant", "helper"),
        changed("tokenizer.json", "filler 151641", "filler x"),
    }
    assert len(found) == 5


def test_a_model_that_computes_nan_does_not_answer(checkpoint: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = _without(checkpoint("qwen2_vl"), tmp_path / "c")
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] *= torch.nan
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN"):
        TorchEmbedder(directory).embed(["a"])


@pytest.mark.parametrize(
    "bad",
    [
        "a\ud800b",
        Image(picture(1), min_pixels=10**12, max_pixels=10**12),
        Video([picture(1)] * 4, min_pixels=10**12),
        {"images": [picture(1)] * 400, "min_pixels": 3_000_000, "max_pixels": 3_100_000},
    ],
    ids=lambda b: type(b).__name__,
)
def test_absurd_items_fail_alone_and_cheaply(engine: TorchEmbedder, bad: Any) -> None:
    result = engine.embed(["fine", bad, "good"], on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed", "ok"]


@pytest.mark.parametrize(
    "image",
    [
        Image(picture(1), max_pixels=10**7, min_pixels=9 * 10**6),
        Image(picture(1), resized_height=20_000, resized_width=20_000),
        Image(picture(1), max_pixels=2000, min_pixels=784),
    ],
    ids=["many pixels", "a large size", "few pixels"],
)
def test_a_size_beyond_the_engines_bounds_is_given_up_and_said(
    engine: TorchEmbedder, image: Image
) -> None:
    """As upstream: the processor's bounds hold after the item's own."""
    warned, fine = engine.embed([image, Image(picture(1), max_pixels=4000)]).records
    assert "the image was resized to" in warned.warnings[0] and not fine.warnings


def test_budgets_are_whole_numbers(engine: TorchEmbedder) -> None:
    for wrong in (float("nan"), 1.5, "5"):
        budget: Any = wrong
        with pytest.raises(InvalidOption, match="max_new_tokens"):
            engine.embed(["a"], mode="gen", max_new_tokens=budget)
