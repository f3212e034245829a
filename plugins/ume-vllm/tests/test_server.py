"""Running servers: vLLM's own on a CPU, and answers that it would not give."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import ume_nano
from ume_core import (
    Image,
    InvalidItem,
    InvalidOption,
    Item,
    LoadOptions,
    Sampling,
    Text,
    Video,
    load,
)
from ume_core.errors import CheckpointError, EngineUnavailable, LimitExceeded, ModeNotSupported
from ume_core.testing.contract import picture
from ume_vllm.engine import VllmServerEmbedder
from ume_vllm.options import ServerOptions
from ume_vllm.server import MM_KWARGS

ITEMS: list[Any] = [
    "a red apple", "?", Image(picture(1)), Image(picture(2, 140, 84)),
    [Image(picture(3)), Text("beside"), Image(picture(4, 28, 28))],
    "a longer text of some more words, to fill another batch",
]  # fmt: skip


class Servers:
    """vLLM's two."""

    def __init__(self, stack: ExitStack, logs: Path) -> None:
        pooling = '{"task": "embed", "pooling_type": "LAST", "use_activation": false}'
        self.states = _start(
            stack, logs / "states", "--runner", "pooling", "--pooler-config", pooling
        )
        self.answers = _start(stack, logs / "answers")
        for url, log in ((self.states, logs / "states"), (self.answers, logs / "answers")):
            _wait(url, log)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("not run: vLLM is not installed here; tools/setup vllm")
    with ExitStack() as stack:
        yield Servers(stack, tmp_path_factory.mktemp("logs"))


def test_running_servers_give_ume_torchs_vectors_and_texts(servers: Servers) -> None:
    torch = load(ume_nano.path(), engine="torch", device="cpu", name="ume-nano")
    mine = load(
        ume_nano.path(), engine_url=servers.states, generate_url=servers.answers, dtype="float32",
        name="ume-nano",
    )  # fmt: skip
    assert mine.name == "vllm-server"
    a, b = (e.embed(ITEMS, mode="both", max_new_tokens=24) for e in (mine, torch))
    assert [r.samples for r in a.records] == [r.samples for r in b.records]
    assert [r.prompt_tokens for r in a.records] == [r.prompt_tokens for r in b.records]
    for mode in ("disc", "gen"):
        assert np.abs(a.vectors(mode) - b.vectors(mode)).max() < 1e-5
    assert a.signature == b.signature


def test_answers_that_begin_as_told_are_ume_torchs_or_say_that_they_were_read_otherwise(
    servers: Servers,
) -> None:
    short = LoadOptions(dtype="float32", thinking="none")
    own = ServerOptions(servers.states, servers.answers)
    mine = VllmServerEmbedder(ume_nano.path(), short, own)
    torch = load(ume_nano.path(), engine="torch", device="cpu", thinking="none")
    a, b = (e.embed(ITEMS, mode="gen", max_new_tokens=12) for e in (mine, torch))
    assert [r.samples for r in a.records] == [r.samples for r in b.records]
    apart = np.abs(a.vectors("gen") - b.vectors("gen")).max(axis=1)
    otherwise = [any("other tokens" in w for w in r.warnings) for r in a.records]
    assert (apart[~np.array(otherwise)] < 1e-5).all() and not all(otherwise)


def test_samples_are_drawn_and_drawn_again_alike(servers: Servers) -> None:
    own = ServerOptions(servers.states, servers.answers)
    mine = VllmServerEmbedder(ume_nano.path(), LoadOptions(dtype="float32"), own)
    hot = Sampling(n=4, temperature=1.5, seed=3)
    first, again = (
        mine.embed(["a dog"], mode="gen", sampling=hot, max_new_tokens=16) for _ in range(2)
    )
    assert first.records[0].samples == again.records[0].samples
    assert len({s.text for s in first.records[0].samples}) > 1
    assert first.gen_samples is not None and again.gen_samples is not None
    assert np.abs(first.gen_samples - again.gen_samples).max() < 1e-5


def test_items_that_a_request_would_change_fail_alone(servers: Servers) -> None:
    mine = VllmServerEmbedder(
        ume_nano.path(), LoadOptions(dtype="float32"), ServerOptions(servers.states)
    )
    clip = Video([picture(n) for n in range(2)])
    items = ["a dog", clip, "what is <|image_pad|>?"]
    result = mine.embed(items, on_error="record")
    assert [r.status for r in result.records] == ["ok", "failed", "failed"]
    assert "JPEG" in (result.records[1].reason or "")
    assert "special token" in (result.records[2].reason or "")
    with pytest.raises(InvalidItem, match=r"item 0: .*JPEG.*Fix: use engine='vllm'"):
        mine.embed([clip])
    with pytest.raises(ModeNotSupported):
        mine.embed(["a"], mode="gen")


def test_a_server_that_resizes_for_itself_is_found_out() -> None:
    with (
        stub(lambda _: vector(192, tokens=99)) as url,
        pytest.raises(CheckpointError, match="min_pixels") as raised,
    ):
        served(url).embed(["a dog"])
    assert MM_KWARGS in str(raised.value)


def vector(size: int, tokens: int = 0) -> tuple[int, Any]:
    data = base64.b64encode(np.ones(size, dtype="<f4").tobytes()).decode()
    return 200, {"data": [{"data": data}], "usage": {"prompt_tokens": tokens}}


REFUSALS: list[tuple[tuple[int, Any], type[Exception], str]] = [
    ((401, {}), EngineUnavailable, "VLLM_API_KEY"),
    ((404, {}), EngineUnavailable, "--runner pooling"),
    ((400, {"error": {"message": "too long"}}), LimitExceeded, "too long.*--max-model-len"),
    ((500, b"oops"), EngineUnavailable, "status 500.*oops"),
    ((302, {}), EngineUnavailable, "status 302"),
    ((200, b"<html>"), EngineUnavailable, "vLLM 0.32"),
    ((200, []), EngineUnavailable, "no object"),
    ((200, {"data": []}), EngineUnavailable, "vLLM 0.32"),
    ((200, {"data": [{"data": "!"}], "usage": {"prompt_tokens": 1}}), EngineUnavailable, "0.32"),
]


@pytest.mark.parametrize(("answer", "error", "said"), REFUSALS, ids=lambda v: str(v)[:30])
def test_what_no_vllm_answers_is_an_error_with_a_fix(
    answer: tuple[int, Any], error: type[Exception], said: str
) -> None:
    with stub(lambda _: answer) as url, pytest.raises(error, match=said):
        served(url).embed(["a dog"])


def test_another_models_vectors_are_refused() -> None:
    prompt = served("http://127.0.0.1:9").prepare(Item((Text("a dog"),)), gen=False)
    count = prompt.disc_index + 1
    with (
        stub(lambda _: vector(64, count)) as url,
        pytest.raises(CheckpointError, match="64 numbers, not 192"),
    ):
        served(url).embed(["a dog"])


def test_a_server_that_is_not_there_is_said() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineUnavailable, match=r"does not answer.*Fix: start it"):
        served(url).embed(["a dog"])


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> tuple[int, Any]:
        seen.append(handler.headers.get("Authorization"))
        return 401, {}

    with stub(answer) as url, pytest.raises(EngineUnavailable) as raised:
        served(url).embed(["a dog"])
    assert set(seen) == {"Bearer secret"} and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "engine_url is not set"),
        ({"engine_url": "localhost:8000"}, "pass http://HOST:PORT"),
        ({"engine_url": "http://u:p@localhost"}, "VLLM_API_KEY"),
        ({"engine_url": "http://localhost", "generate_url": "ftp://x"}, "generate_url"),
        ({"engine_url": "http://localhost", "timeout": 0}, "timeout"),
    ],
)
def test_what_is_no_place_of_a_server_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        load(ume_nano.path(), engine="vllm-server", dtype="float32", **options)


def test_the_servers_dtype_must_be_told() -> None:
    with pytest.raises(InvalidOption, match="server's --dtype"):
        load(ume_nano.path(), engine="vllm-server", engine_url="http://localhost:1")


def served(url: str) -> VllmServerEmbedder:
    return VllmServerEmbedder(ume_nano.path(), LoadOptions(dtype="float32"), ServerOptions(url))


class stub:
    """A server of the test's own answers to POST."""

    def __init__(self, answer: Any) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(200, {"data": [{"id": "m"}]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._say(*answer(self))

            def _say(self, status: int, body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _start(stack: ExitStack, log: Path, *more: str) -> str:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model",
            str(ume_nano.path()), "--host", "127.0.0.1", "--port", str(port), "--enforce-eager",
            "--dtype", "float32", "--max-num-seqs", "16", "--mm-processor-kwargs", MM_KWARGS, *more,
        ],
        env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip

    def stop() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
        process.wait(30)

    stack.callback(stop)
    return f"http://127.0.0.1:{port}"


def _wait(url: str, log: Path) -> None:
    for _ in range(300):
        try:
            with urlopen(f"{url}/health") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
