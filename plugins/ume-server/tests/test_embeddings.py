"""`/v1/embeddings`: every spelling gives the vector `embed` gives."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ume_core.embedder import Embedder, Sampling
from ume_core.items import Image, Item, Text, Video
from ume_core.signature import Signature
from ume_server.testing import MODEL, Running, equal


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def dog(gallery: Path) -> str:
    return data_url(gallery / "dog.png")


def offline(model: Embedder, *items: Any, mode: Any = "disc", **how: Any) -> Any:
    result = model.embed(list(items), mode=mode, **how)
    return result.vectors("gen" if mode == "gen" else "disc")


def vectors(response: Any) -> list[Any]:
    assert response.status_code == 200, response.text
    return [entry["embedding"] for entry in response.json()["data"]]


@pytest.mark.parametrize("given", ["a dog", ["a dog"], [{"text": "a dog"}],
    [{"type": "text", "text": "a dog"}], {"text": "a dog"}, [["a dog"]],
    [{"content": [{"type": "text", "text": "a dog"}]}], [{"content": "a dog"}],
    [{"role": "user", "content": "a dog"}], {"role": "user", "content": "a dog"},
    [[{"role": "user", "content": [{"type": "text", "text": "a dog"}]}]],
], ids=str)  # fmt: skip
def test_every_spelling_of_a_text_is_the_same_item(
    server: Running, model: Embedder, given: Any
) -> None:
    equal(vectors(server.post(input=given)), offline(model, "a dog"))


def test_every_spelling_of_a_picture_is_the_same_item(
    server: Running, model: Embedder, gallery: Path, dog: str
) -> None:
    bare = dog.partition(",")[2]
    spellings: list[Any] = [
        {"image": dog}, {"image": bare}, {"type": "image_url", "image_url": {"url": dog}},
        {"type": "image_url", "image_url": dog}, {"type": "image_base64", "image_base64": bare},
        {"content": [{"type": "image_url", "image_url": {"url": dog, "detail": "auto"}}]},
        {"type": "input_image", "image_url": dog},
    ]  # fmt: skip
    expected = offline(model, Image((gallery / "dog.png").read_bytes()))
    found = vectors(server.post(input=spellings))
    equal(found, np.repeat(expected, len(spellings), 0))
    equal(vectors(server.post(input=[dog], modality="image")), expected)


def test_one_item_may_hold_pictures_and_text_and_an_instruction(
    server: Running, model: Embedder, gallery: Path, dog: str
) -> None:
    picture = Image((gallery / "dog.png").read_bytes())
    task = "Find a picture like this:"
    expected = offline(model, Item((picture, Text("in red")), task))
    content = [{"type": "image_url", "image_url": {"url": dog}}, {"type": "text", "text": "in red"}]
    conversation = [{"role": "system", "content": task}, {"role": "user", "content": content}]
    for body in (
        {"messages": conversation},
        {"messages": [*conversation, {"role": "assistant", "content": ""}]},
        {"messages": [conversation]},
        {"input": conversation},
        {"input": [conversation]},
        {"input": [{"content": content, "instruction": task}]},
        {"input": [{"image": dog, "text": "in red"}], "instruction": task},
        {"messages": conversation, "continue_final_message": True, "add_special_tokens": False},
    ):
        equal(vectors(server.post(**body)), expected)


def test_a_clip_is_embedded(server: Running, model: Embedder, media: Path) -> None:
    clip = (media / "clip.mp4").read_bytes()
    expected = offline(model, Video(clip, nframes=4))
    encoded = base64.b64encode(clip).decode()
    url = f"data:video/mp4;base64,{encoded}"
    for part in (
        {"type": "video_url", "video_url": {"url": url}, "nframes": 4},
        {"type": "video_base64", "video_base64": encoded, "nframes": 4},
        {"video": url, "nframes": 4},
    ):
        equal(vectors(server.post(input=[part])), expected)


def test_the_mode_is_in_the_models_name_or_in_the_body(server: Running, model: Embedder) -> None:
    how: Any = {"max_new_tokens": 8}
    both = model.embed(["a dog"], mode="both", max_new_tokens=8)
    gen = offline(model, "a dog", mode="gen", max_new_tokens=8)
    equal(vectors(server.post(input="a dog", model=f"{MODEL}:gen", **how)), gen)
    equal(vectors(server.post(input="a dog", mode="gen", **how)), gen)
    answer = server.post(input="a dog", model=f"{MODEL}:both", thinking=True, **how).json()
    entry = answer["data"][0]
    equal([entry["embedding"]], both.disc)
    equal([entry["gen_embedding"]], both.gen)
    record = both.records[0]
    assert (entry["thinking"], entry["summary"]) == (record.thinking, record.summary)
    assert entry["samples"][0]["text"] == record.samples[0].text
    assert entry["status"] == record.status and entry.get("reason") == record.reason
    assert answer["usage"] == {
        "prompt_tokens": record.prompt_tokens, "completion_tokens": record.generated_tokens,
        "total_tokens": record.prompt_tokens + record.generated_tokens,
    }  # fmt: skip
    assert Signature.from_dict(answer["signature"]) == both.signature
    assert "thinking" not in server.post(input="a dog", mode="gen", **how).json()["data"][0]


def test_samples_are_those_of_the_library(server: Running, model: Embedder) -> None:
    how: Any = {"n": 2, "temperature": 2.0, "seed": 3}
    sampling = Sampling(**how)
    expected = model.embed(["a dog"], mode="gen", sampling=sampling, max_new_tokens=6)
    found = server.post(input="a dog", mode="gen", sampling=how, max_new_tokens=6).json()
    assert expected.gen_samples is not None
    equal(found["data"][0]["gen_samples"], expected.gen_samples[0])


def test_base64_asked_is_base64_sent_in_little_endian_float32(
    server: Running, model: Embedder
) -> None:
    (encoded,) = vectors(server.post(input="a dog", encoding_format="base64"))
    equal([np.frombuffer(base64.b64decode(encoded), "<f4")], offline(model, "a dog"))


def test_null_is_as_good_as_absent_everywhere(server: Running, model: Embedder) -> None:
    nulls = dict.fromkeys(
        "encoding_format dimensions user mode instruction sampling max_new_tokens on_error lane "
        "timeout stream thinking messages modality task truncate".split()
    )
    found = vectors(server.post(input="a dog", **nulls))
    equal(found, offline(model, "a dog"))


def test_the_native_size_is_accepted_and_another_refused(server: Running, model: Embedder) -> None:
    assert vectors(server.post(input="a dog", dimensions=model.dimensions))
    refused = server.post(input="a dog", dimensions=model.dimensions // 2)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "dimensions"
    assert str(model.dimensions) in refused.json()["error"]["message"]


def test_33_items_and_2048_items_are_split_inside(server: Running, model: Embedder) -> None:
    texts = [f"thing {n % 40}" for n in range(2048)]
    expected = offline(model, *texts[:40])
    found = vectors(server.post(input=texts, encoding_format="base64"))
    decoded = [np.frombuffer(base64.b64decode(v), "<f4") for v in found]
    equal(decoded, expected[np.arange(2048) % 40])


def test_unknown_fields_are_ignored_and_listed(server: Running) -> None:
    found = server.post(input="a dog", user="me", spam=1, eggs=2)
    assert found.status_code == 200 and found.headers["x-ume-ignored"] == "spam, eggs"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": [1, 2, 3]}, 400, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, 400, "check_embedding_ctx_length=False"),
        ({"input": ""}, 400, "text is empty"),
        ({"input": ["a", ""]}, 400, "item 1: the text is empty"),
        ({"input": []}, 400, "input is empty"),
        ({"input": 3}, 400, "neither a string nor a list"),
        ({"input": [{"role": "system", "content": True}]}, 400, "content is true or false"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "no content"),
        ({}, 400, "either input or messages"),
        ({"input": "a", "messages": []}, 400, "either input or messages"),
        ({"input": "a", "model": "gpt-4"}, 404, "ume-nano:gen"),
        ({"input": "a", "model": "ume-nano:gen", "mode": "disc"}, 400, "mode"),
        ({"input": "a", "mode": "dics"}, 400, "disc, gen, both"),
        ({"input": "a", "encoding_format": "int8"}, 400, "base64"),
        ({"input": "a", "task": "retrieval"}, 400, "instruction"),
        ({"input": "a", "normalized": False}, 400, "unit length"),
        ({"input": "a", "truncate": True}, 400, "nothing is cut"),
        ({"input": "a", "sampling": {"n": 2}}, 400, "sampling was given in disc mode"),
        ({"input": "a", "mode": "gen", "sampling": {"n": 0}}, 400, "whole number from 1"),
        ({"input": "a", "mode": "gen", "sampling": {"heat": 1}}, 400, "temperature"),
        ({"input": "a", "stream": True}, 400, "mode gen or both"),
        ({"input": [{"image": "../passwd.txt"}]}, 400, "files here are not opened"),
        ({"input": [{"image": "file:///etc/passwd"}]}, 400, "no data: URL"),
        ({"input": [{"image": "https://example.com/a.png"}]}, 400, "not fetched here"),
        ({"input": [{"image": "data:image/png;base64,AAAA"}]}, 400, "item 0"),
        ({"input": [{"sound": "x"}]}, 400, "unknown key 'sound'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "one user message"),
        ({"input": "a", "mode": "gen", "max_new_tokens": 10**6}, 413, "lower max_new_tokens"),
    ],
    ids=str,
)
def test_what_is_refused_says_which_item_why_and_the_fix(
    server: Running, body: dict[str, Any], status: int, says: str
) -> None:
    found = server.post(**body)
    error = found.json()["error"]
    assert (found.status_code, set(error)) == (status, {"message", "type", "param", "code"})
    assert says in error["message"] and "Fix: " in error["message"]


def test_a_bad_item_fails_alone_when_that_is_asked(server: Running, model: Embedder) -> None:
    body: Any = {"input": ["a dog", "", {"image": "data:,x"}, "a bus"], "on_error": "record"}
    data = server.post(**body).json()["data"]
    assert [entry["status"] for entry in data] == ["ok", "failed", "failed", "ok"]
    assert "Fix: " in data[1]["error"]["message"] and data[1]["embedding"] is None
    equal([data[0]["embedding"], data[3]["embedding"]], offline(model, "a dog", "a bus"))
    before = server.service.metrics.text()
    assert server.post(input=["a dog", ""]).status_code == 400
    after = server.service.metrics.text()  # refused whole, before any of it is computed
    done = [line for line in before.splitlines() if b"request_success_total{" in line]
    assert done == [line for line in after.splitlines() if b"request_success_total{" in line]


def test_models_health_ready_metrics_and_the_document(server: Running) -> None:
    with server.client() as client:
        names = [m["id"] for m in client.get("/v1/models").json()["data"]]
        assert names == [MODEL, f"{MODEL}:disc", f"{MODEL}:gen", f"{MODEL}:both"]
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json() == {"status": "ready"}
        client.post("/v1/embeddings", json={"input": "a dog"})
        metrics = client.get("/metrics").text
        for name in (
            "num_requests_running", "num_requests_waiting", "request_queue_time_seconds",
            "e2e_request_latency_seconds", "request_success_total", "prompt_tokens_total",
        ):  # fmt: skip
            assert f"ume_{name}" in metrics
        paths = client.get("/openapi.json").json()["paths"]
        examples = paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
        for example in examples["examples"].values():
            assert client.post("/v1/embeddings", json=example["value"]).status_code == 200
