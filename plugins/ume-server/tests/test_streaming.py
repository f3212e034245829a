"""Gen as it comes, and clients that leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from ume_core.embedder import Embedder
from ume_server.testing import KEY, Running, equal

Start = Callable[..., Running]
LONG = {"mode": "gen", "sampling": {"temperature": 9.0}, "max_new_tokens": 2000, "stream": True}


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = "message"
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
            yield name, data if data == "[DONE]" else json.loads(data)
            name = "message"


def test_the_thinking_comes_token_by_token_and_then_the_vector(
    server: Running, model: Embedder
) -> None:
    body = {"input": "a dog", "mode": "both", "stream": True, "thinking": True,
            "max_new_tokens": 24}  # fmt: skip
    with server.client() as client, client.stream("POST", "/v1/embeddings", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        came = list(events(answer))
    expected = model.embed(["a dog"], mode="both", max_new_tokens=24)
    text = expected.records[0].samples[0].text
    pieces = [data["text"] for name, data in came if name == "token"]
    assert "".join(pieces) == text and len(pieces) > 5
    name, last = came[-2]
    assert name == "embedding" and came[-1] == ("message", "[DONE]")
    equal([last["data"][0]["embedding"]], expected.disc)
    equal([last["data"][0]["gen_embedding"]], expected.gen)
    assert last["data"][0]["samples"][0]["text"] == text


def test_an_item_that_fails_ends_the_stream_with_its_error(server: Running) -> None:
    body = {"input": "a dog", "mode": "gen", "stream": True, "max_new_tokens": 10**6}
    with server.client() as client, client.stream("POST", "/v1/embeddings", json=body) as answer:
        came = list(events(answer))
    assert [name for name, _ in came] == ["error", "message"]
    assert "lower max_new_tokens" in came[0][1]["error"]["message"]


def test_a_client_that_leaves_a_stream_frees_its_row(server: Running) -> None:
    with server.client() as client:
        with client.stream("POST", "/v1/embeddings", json={"input": "words", **LONG}) as answer:
            stream = events(answer)  # kept: dropping it would close the answer
            next(stream)
            assert server.session.load().running["gen"] == 1
        began = time.monotonic()
        assert server.gone()
        assert time.monotonic() - began < 4
        assert client.post("/v1/embeddings", json={"input": "a dog"}).status_code == 200


def test_a_client_that_leaves_without_a_stream_frees_its_rows_too(server: Running) -> None:
    body = json.dumps({"input": "words", **LONG, "stream": False}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        sock.sendall(head.encode() + body)
        end = time.monotonic() + 10
        while not server.session.load().running["gen"]:
            assert time.monotonic() < end
            time.sleep(0.005)
    assert server.gone()
    assert server.service.admission.items == 0


def test_a_deadline_is_kept(server: Running) -> None:
    body: Any = {"input": "words", **LONG, "stream": False, "timeout": 0.02}
    answer = server.post(**body)
    assert answer.status_code == 504 and "deadline" in answer.json()["error"]["message"]
    assert server.gone()


def test_stopping_finishes_what_runs_and_refuses_what_is_new(start: Start, model: Embedder) -> None:
    server = start()
    body = {"input": "a red apple", "mode": "gen", "stream": True, "max_new_tokens": 200}
    with server.client() as client, server.client() as other:
        assert other.get("/ready").status_code == 200
        with client.stream("POST", "/v1/embeddings", json=body) as answer:
            stream = events(answer)
            next(stream)
            server.server.handle_exit(15, None)
            came = list(stream)
        assert came[-2][0] == "embedding"
        expected = model.embed(["a red apple"], mode="gen", max_new_tokens=200)
        equal([came[-2][1]["data"][0]["embedding"]], expected.gen)
    server.thread.join(20)
    assert not server.thread.is_alive()
    try:
        httpx.get(server.url + "/health")
        raise AssertionError("it still listens")
    except httpx.ConnectError:
        pass


def test_what_runs_too_long_for_the_drain_is_ended(start: Start) -> None:
    server = start(drain_seconds=0)
    body = {"input": "words", **LONG}
    with server.client() as client, client.stream("POST", "/v1/embeddings", json=body) as answer:
        stream = events(answer)
        next(stream)
        server.server.handle_exit(15, None)
        began = time.monotonic()
        server.thread.join(20)
        assert not server.thread.is_alive() and time.monotonic() - began < 10
