"""The adapters inside their frameworks: real stores, pipelines and evaluations."""

from __future__ import annotations

import copy
import importlib
import pickle
import shutil
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import ume_core
import ume_nano
from ume_core import (
    Image,
    InvalidItem,
    InvalidOption,
    ModeNotSupported,
    Policy,
    SignatureMismatch,
    Video,
)

GALLERY = Path(__file__).resolve().parents[1] / "tools" / "gallery"
NAMES = ("dog", "bus", "pizza", "sun")
FILES = [str(GALLERY / f"{name}.png") for name in NAMES]


def test_a_langchain_chain_retrieves_over_chroma() -> None:
    from langchain_chroma import Chroma
    from langchain_core.runnables import RunnableLambda

    from langchain_ume import UmeEmbeddings

    store: Any = Chroma("words", embedding_function=UmeEmbeddings(model="ume-nano"))
    store.add_texts(["a dog", "a bus", "pizza", "the sun"])
    first: Any = RunnableLambda(lambda found: found[0].page_content)  # pyright: ignore
    chain = store.as_retriever(search_kwargs={"k": 1}) | first
    assert chain.invoke("dog") == "a dog"
    embeddings = UmeEmbeddings(model="ume-nano")
    found = store.similarity_search_by_vector(embeddings.embed_image(FILES[:1])[0], k=1)
    assert found[0].page_content == "a dog"


def test_langchains_stores_take_pictures_and_clips() -> None:
    from langchain_chroma import Chroma

    from langchain_ume import UmeEmbeddings

    embeddings = UmeEmbeddings(model="ume-nano")
    store: Any = Chroma("pictures", embedding_function=embeddings)
    store.add_images(FILES, metadatas=[{"name": name} for name in NAMES])
    stored = store.get(include=["embeddings", "metadatas"])
    expected = dict(zip(NAMES, embeddings.embed_items([Path(f) for f in FILES]), strict=True))
    for vector, metadata in zip(stored["embeddings"], stored["metadatas"], strict=True):
        np.testing.assert_allclose(vector, expected[metadata["name"]], atol=1e-6)
    assert store.similarity_search("a dog", k=1)[0].metadata["name"] == "dog"
    if not version("langchain-chroma").startswith("1.0."):  # which wraps the vector twice
        for name, file in zip(NAMES, FILES, strict=True):
            found = store.similarity_search_by_image(file, k=1)
            assert found[0].metadata["name"] == name
    clip = str(GALLERY / "dog-moving-left.mp4")
    assert embeddings.embed_video([clip]) == embeddings.embed_items([Video(clip)])


def test_llama_indexs_multi_modal_index_retrieves_pictures() -> None:
    pytest.importorskip("llama_index.core.indices.multi_modal")
    from llama_index.core.indices.multi_modal import MultiModalVectorStoreIndex
    from llama_index.core.schema import ImageNode, TextNode

    from llama_index.embeddings.ume import UmeEmbedding

    embedding = UmeEmbedding(model_name="ume-nano")
    nodes = [ImageNode(image_path=file, metadata={"name": name})
             for name, file in zip(NAMES, FILES, strict=True)]  # fmt: skip
    index = MultiModalVectorStoreIndex(
        [*nodes, TextNode(text="a rabbit")], embed_model=embedding, image_embed_model=embedding,
        show_progress=False,
    )  # fmt: skip
    retriever: Any = index.as_retriever(similarity_top_k=1, image_similarity_top_k=1)
    assert retriever.text_to_image_retrieve("a bus")[0].node.metadata["name"] == "bus"
    assert retriever.image_to_image_retrieve(FILES[2])[0].node.metadata["name"] == "pizza"
    assert retriever.text_retrieve("rabbit")[0].node.get_content() == "a rabbit"


def test_a_chroma_collection_takes_pictures_by_path() -> None:
    chromadb: Any = importlib.import_module("chromadb")
    loaders: Any = importlib.import_module("chromadb.utils.data_loaders")
    from chroma_ume import UmeEmbeddingFunction

    function: Any = UmeEmbeddingFunction("ume-nano")
    collection = chromadb.EphemeralClient().create_collection(
        "by-path", embedding_function=function, data_loader=loaders.ImageLoader()
    )
    collection.add(ids=list(NAMES), uris=FILES)
    assert collection.query(query_texts=["a dog"], n_results=1)["ids"] == [["dog"]]
    assert collection.query(query_uris=FILES[1:2], n_results=1)["ids"] == [["bus"]]
    picture = np.asarray(PILImage.open(FILES[2]).convert("RGB"))
    assert collection.query(query_images=[picture], n_results=1)["ids"] == [["pizza"]]


async def test_haystacks_converters_and_asynchronous_pipelines() -> None:
    haystack: Any = importlib.import_module("haystack")
    converters: Any = pytest.importorskip("haystack.components.converters.image")
    from haystack_ume import UmeDocumentEmbedder, UmeTextEmbedder

    pipeline = haystack.Pipeline()
    pipeline.add_component("files", converters.ImageFileToDocument())  # keeps the name alone
    embedder = UmeDocumentEmbedder("ume-nano", root_path=str(GALLERY))
    pipeline.add_component("embed", UmeDocumentEmbedder.from_dict(embedder.to_dict()))
    pipeline.connect("files.documents", "embed.documents")
    made = await pipeline.run_async({"files": {"sources": FILES}})
    query = await UmeTextEmbedder("ume-nano").run_async("a dog")
    scores = [np.dot(d.embedding, query["embedding"]) for d in made["embed"]["documents"]]
    assert int(np.argmax(scores)) == 0
    assert getattr(embedder, "__haystack_supports_async__", False)


def test_langchain_modes_differ_only_where_the_model_allows(tmp_path: Path) -> None:
    from langchain_ume import UmeEmbeddings

    UmeEmbeddings(model="ume-nano", mode="disc", query_mode="gen")
    apart = tmp_path / "apart"
    shutil.copytree(ume_nano.path(), apart)
    (apart / "ume_conventions.json").write_text('{"aligned": false}')
    with pytest.raises((SignatureMismatch, ValueError), match="mode"):
        UmeEmbeddings(model=str(apart), mode="disc", query_mode="gen")
    with pytest.raises(ValueError, match="extra"):
        UmeEmbeddings(modle="ume-nano")  # type: ignore[call-arg]


def test_a_chroma_collection_is_restored_with_its_function(tmp_path: Path) -> None:
    chromadb: Any = importlib.import_module("chromadb")
    from chroma_ume import UmeEmbeddingFunction

    function: Any = UmeEmbeddingFunction("ume-nano")
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("things", embedding_function=function)
    collection.add(ids=list(NAMES), documents=[f"a {n}" for n in NAMES])
    chromadb.api.shared_system_client.SharedSystemClient.clear_system_cache()
    again = chromadb.PersistentClient(str(tmp_path)).get_collection("things")
    found = again.query(query_texts=["dog"], n_results=1)
    assert found["ids"] == [["dog"]]
    with pytest.raises(ValueError, match="cannot change"):
        function.validate_config_update(function.get_config(), {"model": "x", "mode": "disc"})


def test_a_llama_index_retriever_finds_texts_and_pictures() -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from llama_index.embeddings.ume import UmeEmbedding

    embedding = UmeEmbedding(model_name="ume-nano")
    nodes = [TextNode(text=f"a {name}") for name in NAMES]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve("dog")[0].get_content() == "a dog"
    seen = [TextNode(text=n, embedding=embedding.get_image_embedding(f))
            for n, f in zip(NAMES, FILES, strict=True)]  # fmt: skip
    pictures = VectorStoreIndex(seen, embed_model=embedding)
    assert pictures.as_retriever(similarity_top_k=1).retrieve("a bus")[0].get_content() == "bus"


def test_a_haystack_pipeline_is_stored_and_retrieves() -> None:
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_ume import UmeDocumentEmbedder, UmeTextEmbedder

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    documents = [Document(meta={"file_path": f, "name": n})
                 for n, f in zip(NAMES, FILES, strict=True)]  # fmt: skip
    store.write_documents(UmeDocumentEmbedder("ume-nano").run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("words", UmeTextEmbedder("ume-nano"))
    pipeline.add_component("find", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("words.embedding", "find.query_embedding")
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["haystack_ume.embedders"])
    found = again.run({"words": {"text": "pizza"}})["find"]["documents"]
    assert found[0].meta["name"] == "pizza"


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_mteb_evaluates_on_a_local_task(mode: Any) -> None:
    import mteb as framework
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    from mteb_ume import UmeEncoder

    class Things(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalThings", description="names of things", reference=None,
            dataset={"path": "local/none", "revision": "0"}, type="Retrieval", category="t2t",
            eval_splits=["test"], eval_langs=["eng-Latn"], main_score="ndcg_at_10",
            date=("2026-01-01", "2026-01-02"), domains=["Written"], task_subtypes=[],
            license="apache-2.0", annotations_creators="derived", dialect=[],
            sample_creation="created", bibtex_citation="", modalities=["text"],
        )  # fmt: skip

        def load_data(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, **_: Any
        ) -> None:
            texts = [f"a {n}" for n in NAMES]
            split: Any = {
                "corpus": Dataset.from_dict(
                    {"id": list(NAMES), "text": texts, "title": [""] * len(NAMES)}
                ),
                "queries": Dataset.from_dict(
                    {"id": [f"q-{n}" for n in NAMES], "text": list(NAMES)}
                ),
                "relevant_docs": {f"q-{n}": {n: 1} for n in NAMES},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    encoder: Any = UmeEncoder("ume-nano", mode=mode)
    result = framework.evaluate(encoder, Things(), cache=None, show_progress_bar=False)
    assert result.model_name == f"ume/ume-nano-{mode}"
    assert result.task_results[0].get_score() > 0.7


def test_wrong_names_say_what_is_there() -> None:
    from chroma_ume import UmeEmbeddingFunction
    from langchain_ume import UmeEmbeddings

    with pytest.raises(InvalidOption, match="known engines"):
        UmeEmbeddingFunction("ume-nano", engine="none")(["a"])
    with pytest.raises((InvalidOption, ValueError), match="no option"):
        UmeEmbeddings(model="ume-nano", load_options={"devise": "cpu"})


def test_disc_only_engines_say_who_has_gen(exported: Path) -> None:
    from langchain_ume import UmeEmbeddings

    with pytest.raises((ModeNotSupported, ValueError), match="the checkpoint that it was made"):
        UmeEmbeddings(model=str(exported), mode="gen")
    assert np.isfinite(UmeEmbeddings(model=str(exported)).embed_query("a dog")).all()


def test_mteb_rows_without_content_are_the_blank_picture_and_bad_ones_are_named() -> None:
    from mteb_ume import UmeEncoder

    encoder: Any = UmeEncoder("ume-nano")
    rows = ["a dog"] * 300
    rows[1:3] = ["", "  "]
    batches: Any = [{"text": rows[n : n + 64]} for n in range(0, len(rows), 64)]
    found = encoder.encode(batches, task_metadata=None, hf_split="", hf_subset="")
    blank = Image(np.full((28, 28, 3), 255, dtype=np.uint8))
    expected = ume_core.load("ume-nano").embed(["a dog", blank]).vectors("disc")
    assert np.abs(found[[0, 1, 2, 299]] - expected[[0, 1, 1, 0]]).max() <= 1e-5
    batches[4]["text"][9] = "\ud800"
    with pytest.raises(InvalidItem, match="item 265: "):
        encoder.encode(batches, task_metadata=None, hf_split="", hf_subset="")
    with pytest.raises(InvalidOption, match="use disc or gen"):
        UmeEncoder("ume-nano", mode="both")


def test_llama_index_refuses_what_it_would_pass_over() -> None:
    from llama_index.embeddings.ume import UmeEmbedding

    with pytest.raises(InvalidOption, match=r"document_instruction.*, load_options$"):
        UmeEmbedding(model_name="ume-nano", document_instruction="x")
    embedding = UmeEmbedding(model_name="ume-nano")
    assert UmeEmbedding.from_dict(embedding.to_dict()).model_name == "ume-nano"
    with pytest.raises(InvalidItem, match="item 30: the text is empty"):
        embedding.get_text_embedding_batch(["a dog"] * 30 + [""])
    with pytest.raises(InvalidItem, match="wrap it in a list"):
        embedding.get_text_embedding_batch("a dog")  # type: ignore[arg-type]
    expected = embedding.get_image_embedding(FILES[0])
    data: Any = Path(FILES[0]).read_bytes()
    assert embedding.get_image_embedding(data) == pytest.approx(expected, abs=1e-6)
    nothing: Any = None
    with pytest.raises(InvalidItem, match="NoneType"):
        embedding.get_image_embedding(nothing)


def test_haystack_documents_hold_pictures_and_clips() -> None:
    from haystack import Document
    from haystack.dataclasses import ByteStream

    from haystack_ume import UmeDocumentEmbedder

    clip = GALLERY / "dog-moving-left.mp4"
    embedder = UmeDocumentEmbedder("ume-nano")
    documents = [
        Document(content="a cat", meta={"file_path": Path(FILES[0])}),
        Document(content="what?", meta={"file_path": str(clip)}),
        Document(blob=ByteStream(clip.read_bytes(), mime_type="video/mp4")),
        Document(content="a cat", meta={"file_path": "notes.pdf"}),
    ]
    found = np.array([d.embedding for d in embedder.run(documents)["documents"]])
    items = [{"image": FILES[0], "text": "a cat"}, [Video(clip), "what?"], Video(clip), "a cat"]
    expected = ume_core.load("ume-nano").embed(items).vectors("disc")
    assert np.abs(found - expected).max() <= 1e-5
    with pytest.raises(InvalidItem, match=r"item 1: document .* has neither"):
        embedder.run([documents[0], Document(content="  ")])


@pytest.mark.parametrize("framework", ["haystack", "chroma"])
def test_a_model_is_loaded_once_by_many_threads(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chroma_ume import function
    from haystack_ume import embedders

    loaded: list[str] = []

    def counted(*args: Any, **named: Any) -> Any:
        loaded.append(args[0])
        return ume_core.load(*args, **named)

    call: Callable[[], Any]
    if framework == "haystack":
        monkeypatch.setattr(embedders, "load", counted)
        words = embedders.UmeTextEmbedder("ume-nano")
        call = lambda: words.run("a dog")  # noqa: E731
    else:
        monkeypatch.setattr(function, "load", counted)
        embed: Any = function.UmeEmbeddingFunction("ume-nano", load_options={"gen_rows": 7})
        call = lambda: embed(["a dog"])  # noqa: E731
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == ["ume-nano"]


def test_copies_load_the_model_again() -> None:
    from haystack_ume import UmeTextEmbedder
    from langchain_ume import UmeEmbeddings
    from ume_sentence_transformers import load

    words = UmeTextEmbedder("ume-nano", instruction="Find:")
    words.warm_up()
    chain = UmeEmbeddings(model="ume-nano", query_instruction="Find:")
    model: Any = load("ume-nano")
    runs: list[tuple[Any, Callable[[Any], Any]]] = [
        (words, lambda m: m.run("a dog")["embedding"]),
        (chain, lambda m: m.embed_query("a dog")),
        (model, lambda m: m.encode("a dog", prompt="Find:").tolist()),
    ]
    for made, embed in runs:
        expected = embed(made)
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert embed(again) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InvalidOption, match=r"sent to another process.*load\(name"):
        pickle.dumps(load(ume_core.load("ume-nano")))


def test_one_value_is_no_list_and_settings_must_be_plain() -> None:
    from chroma_ume import UmeEmbeddingFunction
    from langchain_ume import UmeEmbeddings

    embed: Any = UmeEmbeddingFunction("ume-nano")
    for value in ("a dog", np.zeros((56, 56, 3), dtype=np.uint8)):
        with pytest.raises(InvalidItem, match="wrap it in a list"):
            embed(value)
    with pytest.raises(InvalidItem, match="wrap it in a list"):
        UmeEmbeddings(model="ume-nano").embed_image(FILES[0])  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="use strings and numbers"):
        UmeEmbeddingFunction("ume-nano", load_options={"policy": Policy.closed()})
