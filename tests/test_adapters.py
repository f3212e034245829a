"""Every adapter and engine gives the same vectors; the status page's matrix comes from here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import ume_core
from tests import matrix
from tests.matrix import Cell
from ume_core import Image, Video
from ume_core.testing.contract import picture

PICTURES = [picture(1, 84, 84), picture(2, 84, 56)]
TEXTS = ["a red apple", "two dogs on a blue background"]
BOTH = {"image": PICTURES[0], "text": TEXTS[0]}
CLIP = Video([picture(s) for s in range(4)])
ENGINES = [
    ("torch", "disc"), ("torch", "gen"), ("onnxruntime", "disc"), ("tensorrt", "disc"),
]  # fmt: skip
Adapter = Callable[[str, str, Any, list[str]], dict[str, Any]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The pictures as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i}.png" for i in range(len(PICTURES))]
    for path, image in zip(paths, PICTURES, strict=True):
        image.save(path)
    return [str(p) for p in paths]


def sentence_transformers(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from ume_sentence_transformers import load

    model: Any = load(name, mode=mode, engine=engine)
    return {
        "text": model.encode(TEXTS),
        "image": model.encode([PILImage.open(f) for f in files]),
        "image+text": model.encode([BOTH]),
        "video": model.encode([[CLIP]]),
    }


def langchain(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from langchain_ume import UmeEmbeddings

    model = UmeEmbeddings(model=name, engine=engine, mode=mode)
    texts = asyncio.run(model.aembed_documents(TEXTS))
    assert model.embed_query(TEXTS[0]) == pytest.approx(texts[0], abs=1e-5)
    return {
        "text": texts,
        "image": model.embed_image(files),
        "image+text": model.embed_items([BOTH]),
        "video": model.embed_items([CLIP]),
    }


def llama_index(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from llama_index.embeddings.ume import UmeEmbedding

    model = UmeEmbedding(model_name=name, engine=engine, mode=mode)
    texts = model.get_text_embedding_batch(TEXTS)
    query = asyncio.run(model.aget_query_embedding(TEXTS[0]))
    assert query == pytest.approx(texts[0], abs=1e-5)
    return {"text": texts, "image": model.get_image_embedding_batch([*files])}


def haystack(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from haystack import Document
    from haystack.dataclasses import ByteStream

    from haystack_ume import UmeDocumentEmbedder, UmeTextEmbedder

    stored = UmeDocumentEmbedder(name, mode, engine).to_dict()
    component = UmeDocumentEmbedder.from_dict(stored)

    def embedded(documents: list[Document]) -> list[Any]:
        return [d.embedding for d in component.run(documents)["documents"]]

    texts = embedded([Document(content=t) for t in TEXTS])
    query = UmeTextEmbedder(name, mode, engine).run(TEXTS[0])["embedding"]
    assert query == pytest.approx(texts[0], abs=1e-5)
    blob = ByteStream(Path(files[0]).read_bytes(), mime_type="image/png")
    return {
        "text": texts,
        "image": embedded([Document(meta={"file_path": f}) for f in files]),
        "image+text": embedded([Document(content=TEXTS[0], blob=blob)]),
    }


def chroma(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from chroma_ume import UmeEmbeddingFunction

    function = UmeEmbeddingFunction(name, mode, engine)
    again = UmeEmbeddingFunction.build_from_config(function.get_config())
    images: Any = [np.asarray(PILImage.open(f)) for f in files]
    return {"text": again(TEXTS), "image": function(images)}


def mteb(name: str, engine: str, mode: Any, files: list[str]) -> dict[str, Any]:
    from mteb_ume import UmeEncoder

    encoder = UmeEncoder(name, mode=mode, engine=engine)

    def encode(**batch: Any) -> Any:
        loader: Any = [batch]
        metadata: Any = None
        return encoder.encode(loader, task_metadata=metadata, hf_split="", hf_subset="")

    frames = np.stack([np.asarray(picture(s)) for s in range(4)])
    return {
        "text": encode(text=TEXTS),
        "image": encode(image=[PILImage.open(f) for f in files]),
        "image+text": encode(image=PICTURES[:1], text=TEXTS[:1]),
        "video": encode(video=[frames]),
    }


ADAPTERS: dict[str, Adapter] = {
    "sentence-transformers": sentence_transformers, "LangChain": langchain,
    "LlamaIndex": llama_index, "Haystack": haystack, "Chroma": chroma, "mteb": mteb,
}  # fmt: skip


@lru_cache(maxsize=4)
def expected(mode: Any) -> dict[str, Any]:
    """What the PyTorch engine itself says."""
    engine = ume_core.load("ume-nano", engine="torch")
    return {
        "text": engine.embed(TEXTS, mode=mode).vectors(mode),
        "image": engine.embed([Image(p) for p in PICTURES], mode=mode).vectors(mode),
        "image+text": engine.embed([BOTH], mode=mode).vectors(mode),
        "video": engine.embed([CLIP], mode=mode).vectors(mode),
    }


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("engine", "mode"), ENGINES)
def test_every_adapter_gives_the_engines_vectors(
    adapter: str, engine: str, mode: str, files: list[str], request: pytest.FixtureRequest
) -> None:
    if engine == "tensorrt" and matrix.HARDWARE:
        pytest.skip(f"not run: {matrix.HARDWARE}")
    directory = {"onnxruntime": "exported", "tensorrt": "built"}.get(engine)
    name = "ume-nano" if directory is None else str(request.getfixturevalue(directory))
    for modality, found in ADAPTERS[adapter](name, engine, mode, files).items():
        difference = np.abs(np.asarray(found, dtype=np.float32) - expected(mode)[modality]).max()
        assert difference < 1e-5, (adapter, engine, mode, modality)
        matrix.covered(Cell(adapter, mode, modality, engine))


def test_the_status_pages_matrix_is_what_the_tests_showed() -> None:
    shown = {(c.framework, c.engine, c.mode) for c in matrix.COVERED}
    could = [e for e, _ in ENGINES if e != "tensorrt" or not matrix.HARDWARE]
    if len(shown) < len(ADAPTERS) * len(could):
        pytest.skip("only after all adapters were tested in this run")
    made = matrix.table(list(ADAPTERS), ENGINES)
    if os.environ.get("UME_WRITE_MATRIX"):
        matrix.write(made)
    if not matrix.HARDWARE and matrix.NOT_RUN in matrix.in_page():
        pytest.skip("TensorRT ran here, and the page was written without: UME_WRITE_MATRIX=1")
    assert matrix.in_page() == made, "run the tests with UME_WRITE_MATRIX=1"
