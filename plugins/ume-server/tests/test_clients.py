"""The clients people have, as they are, against a real server."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core.embedder import Embedder
from ume_core.items import Image, Item, Text
from ume_server.testing import KEY, MODEL, Running, equal

TEXTS = ["a dog", "public transport", "a red apple"]
README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture(scope="module")
def expected(model: Embedder) -> Any:
    return model.embed(TEXTS).disc


@pytest.fixture(autouse=True)
def nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No client reports to its maker."""
    for name in ("HAYSTACK_TELEMETRY_ENABLED", "LITELLM_TELEMETRY", "ANONYMIZED_TELEMETRY"):
        monkeypatch.setenv(name, "False")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    yield


def test_openai(server: Running, expected: Any, model: Embedder) -> None:
    from openai import BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
    answer = client.embeddings.create(model=MODEL, input=TEXTS)  # the client asks for base64
    equal([entry.embedding for entry in answer.data], expected)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    floats = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    equal([floats.data[0].embedding], expected[:1])
    gen = client.embeddings.create(
        model=f"{MODEL}:both", input=TEXTS[0],
        extra_body={"max_new_tokens": 8, "thinking": True},
    )  # fmt: skip
    both = model.embed(TEXTS[:1], mode="both", max_new_tokens=8)
    extra: Any = gen.data[0].model_extra
    decoded = np.frombuffer(base64.b64decode(extra["gen_embedding"]), "<f4")
    equal([decoded], both.gen)
    assert extra["summary"] == both.records[0].summary
    assert MODEL in [m.id for m in client.models.list()]
    with pytest.raises(BadRequestError, match="item 0"):
        client.embeddings.create(model=MODEL, input="")
    with pytest.raises(NotFoundError, match="ume-nano:gen"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


async def test_openai_async(server: Running, expected: Any) -> None:
    import asyncio

    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model=MODEL, input=text) for text in TEXTS * 10)
        )
    found = [answer.data[0].embedding for answer in answers]
    equal(found, np.tile(expected, (10, 1)))


def test_openai_waits_as_it_is_told_when_the_server_is_busy(start: Any, expected: Any) -> None:
    from openai import OpenAI

    server = start(waiting_items=1)
    client = OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=5)
    body = {"input": "words", "mode": "gen", "stream": True,
            "sampling": {"n": 8, "temperature": 9.0},
            "max_new_tokens": 1000}  # fmt: skip
    with server.client() as other, other.stream("POST", "/v1/embeddings", json=body) as stream:
        lines = stream.iter_lines()  # kept: dropping it would close the answer
        next(lines)
        refused = server.post(input="a dog")
        assert refused.status_code == 429
        assert 1 <= float(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
    answer = client.embeddings.create(model=MODEL, input=TEXTS[0])
    equal([answer.data[0].embedding], expected[:1])


def test_langchain_openai(server: Running, expected: Any) -> None:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    embeddings = OpenAIEmbeddings(
        model=MODEL, base_url=f"{server.url}/v1", api_key=SecretStr(KEY),
        check_embedding_ctx_length=False,
    )  # fmt: skip
    equal(embeddings.embed_documents(TEXTS), expected)
    equal([embeddings.embed_query(TEXTS[0])], expected[:1])


def test_langchain_openai_by_default_sends_token_ids_and_is_told_the_fix(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    from openai import BadRequestError
    from pydantic import SecretStr

    class Ids:
        """cl100k's file is on the network; the ids it would give are as good as any."""

        def encode_ordinary(self, text: str) -> list[int]:
            return [len(word) for word in text.split()]

        encode = encode_ordinary

    langchain: Any = import_module("langchain_openai.embeddings.base")
    monkeypatch.setattr(langchain.tiktoken, "encoding_for_model", lambda _: Ids())
    monkeypatch.setattr(langchain.tiktoken, "get_encoding", lambda _: Ids())
    embeddings = langchain.OpenAIEmbeddings(
        model=MODEL, base_url=f"{server.url}/v1", api_key=SecretStr(KEY)
    )
    with pytest.raises(BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


def test_llama_index(server: Running, expected: Any) -> None:
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedding = OpenAIEmbedding(
        model_name=MODEL, api_base=f"{server.url}/v1", api_key=KEY, embed_batch_size=100
    )
    equal(embedding.get_text_embedding_batch(TEXTS), expected)
    equal([embedding.get_query_embedding(TEXTS[0])], expected[:1])


def test_haystack(server: Running, expected: Any) -> None:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder

    where: Any = {"model": MODEL, "api_base_url": f"{server.url}/v1"}
    documents = OpenAIDocumentEmbedder(progress_bar=False, **where).run(
        documents=[Document(content=text) for text in TEXTS]
    )["documents"]
    equal([d.embedding for d in documents], expected)
    equal([OpenAITextEmbedder(**where).run(text=TEXTS[0])["embedding"]], expected[:1])


def test_chroma(server: Running, expected: Any) -> None:
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    function = OpenAIEmbeddingFunction(
        api_key_env_var="OPENAI_API_KEY", model_name=MODEL, api_base=f"{server.url}/v1",
        dimensions=expected.shape[1],
    )  # fmt: skip
    equal(function(TEXTS), expected)


def test_litellm(server: Running, expected: Any) -> None:
    import litellm

    answer: Any = litellm.embedding(
        model=f"openai/{MODEL}", input=TEXTS, api_base=f"{server.url}/v1", api_key=KEY
    )
    equal([entry["embedding"] for entry in answer.data], expected)


def picture(gallery: Path) -> tuple[str, bytes]:
    data = (gallery / "dog.png").read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}", data


def test_cohere(server: Running, expected: Any, model: Embedder, gallery: Path) -> None:
    import cohere

    url, data = picture(gallery)
    client = cohere.ClientV2(api_key=KEY, base_url=server.url)
    answer = client.embed(
        model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=["float"]
    )
    equal(answer.embeddings.float_, expected)
    images = client.embed(model=MODEL, images=[url], input_type="image", embedding_types=["float"])
    equal(images.embeddings.float_, model.embed([Image(data)]).disc)
    content: Any = [{"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "in red"}]  # fmt: skip
    inputs: Any = [{"content": content}]
    mixed = client.embed(
        model=MODEL, inputs=inputs, input_type="search_query",
        embedding_types=["float"],
    )  # fmt: skip
    equal(mixed.embeddings.float_, model.embed([Item((Image(data), Text("in red")))]).disc)
    with pytest.raises(cohere.BadRequestError, match="nothing is cut"):
        client.embed(model=MODEL, texts=["a"], input_type="search_query", truncate="START")


def test_voyageai(server: Running, model: Embedder, gallery: Path) -> None:
    from voyageai.client import Client

    _, data = picture(gallery)
    shown = PILImage.open(BytesIO(data)).convert("RGB")
    client = Client(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0)
    answer = client.multimodal_embed([["in red", shown], ["a dog"]], model=MODEL)
    expected = model.embed([[Text("in red"), Image(shown)], "a dog"]).disc
    equal(answer.embeddings, expected, 2e-2)  # the client sends pictures as lossy WebP
    equal(answer.embeddings[1:], np.asarray(expected)[1:])
    assert answer.total_tokens > 0 and answer.image_pixels == shown.width * shown.height


def test_curl_as_the_readme_has_it(server: Running, expected: Any) -> None:
    found_blocks = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text("utf-8"), re.S | re.M)
    blocks = [block for kind, block in found_blocks if not kind]
    lines = [x for b in blocks for x in re.split(r"\n(?=curl )", b) if x.startswith("curl ")]
    assert len(lines) == 3
    found: list[str] = []
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", server.url).replace(
            "curl ", f'curl -sS -H "Authorization: Bearer {KEY}" ', 1
        )
        found.append(subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
        ).stdout)  # fmt: skip
    equal([json.loads(found[0])["data"][0]["embedding"]], expected[:1])
    assert json.loads(found[1])["data"][0]["samples"][0]["tokens"] > 0
    assert found[2].startswith("event: token") and found[2].rstrip().endswith("data: [DONE]")


def test_python_as_the_readme_has_it(
    server: Running, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    block = block.replace("http://127.0.0.1:8000", server.url).replace("unused", KEY)
    exec(compile(block, str(README), "exec"), {})
    equal(json.loads(capsys.readouterr().out), expected[0, :4])


def test_no_client_left_anything_running(server: Running) -> None:
    assert server.gone() and server.service.admission.received == 0
    assert os.environ["OPENAI_API_KEY"] == KEY
