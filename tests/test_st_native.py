"""Plain sentence-transformers on a directory `ume save` wrote: no flag, no plugin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from sentence_transformers import SentenceTransformer

import ume_sentence_transformers.native as native
from ume_core import Image, InvalidOption, LoadOptions, Video
from ume_core.testing.contract import picture
from ume_r1.cli import main
from ume_sentence_transformers import save
from ume_torch import TorchEmbedder

Make = Callable[[str], Path]
Pair = tuple[SentenceTransformer, TorchEmbedder, Path]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def pair(
    request: pytest.FixtureRequest, checkpoint: Make, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """A saved directory in sentence-transformers, and the engine with the same policy."""
    directory = tmp_path_factory.mktemp("st") / "ume-r1"
    save(checkpoint(request.param), directory, {})
    engine = TorchEmbedder(checkpoint(request.param), LoadOptions(conventions="readme"))
    return SentenceTransformer(str(directory), device="cpu"), engine, directory


def conversation(*media: Any, text: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": m} for m in media] + [{"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def test_disc_vectors_equal_the_engines(pair: Pair) -> None:
    model, engine, _ = pair
    a, b = picture(1, 112, 84), picture(2, 84, 140)
    words = ["a red apple", "another, longer text"]
    asked = {"image": a, "text": "what?"}
    batches: list[tuple[list[Any], list[Any]]] = [
        (words, words),
        ([a, b], [Image(a), Image(b)]),
        ([asked, "words", b], [asked, "words", Image(b)]),
        ([{"text": "what?", "image": a}], [asked]),  # media first, whatever the keys' order
        (
            [conversation(a, b, text="which?"), conversation(text="hi\n<disc_emb>\n")],
            [{"images": [a, b], "text": "which?"}, "hi"],
        ),
    ]
    for given, items in batches:
        expected = engine.embed(items).vectors("disc")
        assert np.abs(np.asarray(model.encode(given)) - expected).max() <= 1e-5


def test_a_turned_file_is_turned_here_too_but_not_a_pil_image(pair: Pair, tmp_path: Path) -> None:
    model, engine, _ = pair
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "phone.png"
    picture(1, 112, 84).transpose(PILImage.Transpose.ROTATE_90).save(path, exif=exif)
    lying = PILImage.open(path)
    expected = engine.embed([Image(picture(1, 112, 84)), Image(path), Image(lying)]).vectors("disc")
    np.testing.assert_allclose(expected[1:], expected[:1].repeat(2, 0), atol=1e-6)
    found = np.asarray(model.encode([str(path), ImageOps.exif_transpose(lying)]))
    assert np.abs(found - expected[0]).max() <= 1e-5
    assert np.abs(np.asarray(model.encode([lying])) - expected[0]).max() > 1e-3


def test_a_video_equals_the_engines(pair: Pair) -> None:
    model, engine, _ = pair
    frames = [picture(s, 112, 112) for s in range(4)]
    content: list[Any] = [{"type": "video", "video": frames}, {"type": "text", "text": "x"}]
    asis: Any = {"video": {"do_resize": False, "do_sample_frames": False}}
    found = model.encode([[{"role": "user", "content": content}]], processing_kwargs=asis)
    item = [Video(frames, resized_height=112, resized_width=112), "x"]
    expected = engine.embed([item]).vectors("disc")
    difference = np.abs(np.asarray(found) - expected).max()
    if engine.checkpoint.config["model_type"] == "qwen2_vl" or transformers.__version__ < "5":
        assert difference <= 1e-5
    else:  # transformers 5.x assumes a frame rate of its own; if this fails, say so in the README
        assert 1e-5 < difference < 2e-2


def test_what_existing_code_calls_works(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, directory = pair
    monkeypatch.chdir(directory.parent)
    by_name = SentenceTransformer("ume-r1", device="cpu")
    texts = ["a red apple", "a dog", "apples"]
    vectors = np.asarray(by_name.encode(texts))
    assert (vectors == np.asarray(model.encode(texts))).all()
    assert (np.asarray(by_name.encode_query(texts)) == vectors).all()
    assert (np.asarray(by_name.encode_document(texts)) == vectors).all()
    np.testing.assert_allclose(by_name.similarity(vectors, vectors), vectors @ vectors.T, atol=1e-6)
    assert np.asarray(by_name.encode(texts, truncate_dim=8)).shape == (3, 8)
    assert np.asarray(by_name.encode(texts, precision="binary")).dtype == np.int8
    tensor = by_name.encode(texts, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and (tensor.numpy() == vectors).all()
    by_name.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(np.asarray(again.encode(texts)), vectors, atol=1e-6)


def test_processes_of_a_pool_give_the_same(pair: Pair) -> None:
    model, _, _ = pair
    texts = ["a red apple", "a dog", "apples"]
    pool = model.start_multi_process_pool(["cpu"])
    try:
        found = model.encode(texts, pool=pool, chunk_size=2)
    finally:
        model.stop_multi_process_pool(pool)
    np.testing.assert_allclose(np.asarray(found), np.asarray(model.encode(texts)), atol=1e-6)


def test_the_same_directory_serves_gen_and_plain_transformers(pair: Pair) -> None:
    _, engine, directory = pair
    from transformers import AutoModelForImageTextToText

    saved = TorchEmbedder(directory, LoadOptions(conventions="readme"))
    ours = saved.embed(["a text"], mode="both", max_new_tokens=5)
    assert ours.records == engine.embed(["a text"], mode="both", max_new_tokens=5).records
    loaded: Any = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not loaded[1]["missing_keys"] and loaded[0].lm_head is not None


def test_a_directory_is_written_whole_or_not_at_all(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(InvalidOption, match=r"not empty.*Fix"):
        save(checkpoint("qwen2_vl"), taken, {})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(native, "_write_settings", interrupted)
        save(checkpoint("qwen2_vl"), tmp_path / "new", {})
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_ume_save_names_the_directory_after_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["save", "ume-nano"]) == 0
    assert "ume-nano" in capsys.readouterr().out
    policy = json.loads((tmp_path / "ume-nano" / "config_sentence_transformers.json").read_text())
    assert policy["ume"] == {"mode": "disc", "conventions": "readme"}
    assert main(["save", "ume-nano", "x", "--format", "parquet"]) == 2


def test_it_can_be_trained_as_any_other(checkpoint: Make, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="sentence-transformers trains on datasets")
    pytest.importorskip("accelerate", reason="sentence-transformers trains with accelerate")
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    directory = save(checkpoint("qwen2_vl"), tmp_path / "base", {})
    model = SentenceTransformer(str(directory), device="cpu")
    before = np.asarray(model.encode(["one"]))
    rows = {"anchor": ["one", "two", "three", "four"], "positive": ["1", "2", "3", "4"]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=2,
        learning_rate=1e-3, report_to=[], save_strategy="no", use_cpu=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(rows),
        loss=MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    trainer.train()
    assert np.abs(np.asarray(model.encode(["one"])) - before).max() > 1e-4
