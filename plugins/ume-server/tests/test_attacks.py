"""Attacks on servers like this one, and the defence against each: real requests on loopback."""

from __future__ import annotations

import base64
import http.server
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import ume_core
from ume_core.limits import Policy
from ume_server.errors import scrubbed
from ume_server.settings import SERVER_LIMITS
from ume_server.testing import KEY, MODEL, Running, as_url, equal, png

Start = Callable[..., Running]
UNSAFE = re.compile(r"0x[0-9a-fA-F]{4,}|/[a-z]+/[a-z]|\b(?:PIL|av|torch|ume_\w+)\.\w+|Traceback")


def raw(server: Running, *chunks: bytes, pause: float = 0.0, seconds: float = 10.0) -> bytes:
    """What a server says to bytes that no client would send."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as sock:
        try:
            for chunk in chunks:
                sock.sendall(chunk)
                time.sleep(pause)
            while data := sock.recv(65536):
                answer += data
                if b"}}" in answer:
                    break
        except (ConnectionError, TimeoutError):
            pass
    return answer


def head(*more: str, length: int | None = None) -> bytes:
    lines = [
        "POST /v1/embeddings HTTP/1.1",
        "host: localhost",
        f"authorization: Bearer {KEY}",
        *more,
    ]
    if length is not None:
        lines.append(f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Canary(http.server.ThreadingHTTPServer):
    """A service of the inner network."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counting)
        self.requests: list[str] = []


class _Counting(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Canary)
        self.server.requests.append(self.path)
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def canary() -> Iterator[Canary]:
    found = Canary()
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}).start()
    yield found
    found.shutdown()
    found.server_close()


def inner_urls(port: int) -> list[str]:
    """Spellings of 127.0.0.1 and of other special addresses, and names that lead there."""
    hosts = [
        "127.0.0.1", "2130706433", "017700000001", "0x7f.1", "127.1", "localhost", "[::1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[::ffff:0:127.0.0.1]",
        "[2606:4700::5efe:127.0.0.1]", "192.0.0.192", "192.88.99.1", "[3fff::1]", "[5f00::1]",
        "0.0.0.0", "169.254.169.254", "allowed.example\\@127.0.0.1", "allowed.example@127.0.0.1",
        "127.0.0.1#@allowed.example", "two-answers.example", "allowed.example.",
    ]  # fmt: skip
    return [f"http://{host}:{port}/secret" for host in hosts]


def test_ssrf_reaches_nothing_and_every_refusal_reads_alike(
    start: Start, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    slow = threading.Event()

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in ("two-answers.example", "allowed.example", "allowed.example."):
            # A public address and an inner one; what is asked for second is never another answer.
            places = ["93.184.216.34", "127.0.0.1"]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (p, port)) for p in places]
        if host == "slow.example":
            slow.wait(30)
            raise socket.gaierror(-2, "late")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hosts = (
        "two-answers.example", "allowed.example", "slow.example", "127.0.0.1", "localhost", "::1",
        "2130706433", "127.1", "0x7f.1", "::ffff:127.0.0.1",
    )  # fmt: skip
    limits = ume_core.Limits(**{**vars(SERVER_LIMITS), "url_seconds": 1.0})
    policy = Policy(files=False, urls=True, hosts=hosts)
    model = ume_core.load(MODEL, engine="torch", device="cpu", dtype="float32", policy=policy,
                          limits=limits)  # fmt: skip
    server = start(model=model, url_hosts=hosts, limits=limits)
    texts = set[str]()
    urls = [*inner_urls(canary.server_port), f"http://127.0.0.1:{canary.server_port}/redirect",
            "http://slow.example/", "http://unknown.invalid/"]  # fmt: skip
    began = time.monotonic()
    answer = server.post(input=[{"image": url} for url in urls], on_error="record")
    for entry in answer.json()["data"]:
        assert entry["status"] == "failed"
        texts.add(entry["error"]["message"])
    slow.set()
    assert canary.requests == [] and len(texts) == 1
    assert time.monotonic() - began < 20
    off = start(url_hosts=())
    found = off.post(input=[{"image": url} for url in urls], on_error="record").json()["data"]
    assert len({entry["error"]["message"] for entry in found}) == 1 and canary.requests == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot identify <_io.BytesIO object at 0x7f31>", "cannot identify an object"),
        ("at 0xdeadbeef", "at an object"),
        ("no such file: /srv/models/x.png", "no such file: a file"),
        ("raised PIL.UnidentifiedImageError: bad", "raised UnidentifiedImageError: bad"),
        ("more than limits.image_pixels (5)", "more than limits.image_pixels (5)"),
        ("and/or 1/2 of the 4:3 frame", "and/or 1/2 of the 4:3 frame"),
    ],
)
def test_heap_addresses_and_paths_are_taken_out_of_texts(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


def test_a_fault_of_ours_is_said_in_the_shape_of_errors_and_tells_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()

    def fail(*_: Any) -> None:
        raise RuntimeError("at /srv/ume/secret.py 0x7f31aa")

    monkeypatch.setattr(server.service, "answer", fail)
    with server.client() as client:
        answer = client.post("/v1/embeddings", json={"input": "a dog"})
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "server_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "mm_processor_kwargs"])
def test_templates_and_processor_options_in_a_request_are_refused(
    server: Running, field: str
) -> None:
    answer = server.post(input="a", **{field: "{{ cycler.__init__.__globals__ }}"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field


def test_pickled_and_sparse_tensors_are_plain_bad_input(server: Running) -> None:
    import pickle

    data = base64.b64encode(pickle.dumps({"a": 1})).decode()
    for body in (
        {"input": [{"image": data}]}, {"input": [{"tensor": data}]},
        {"input": "a", "prompt_embeds": data},
    ):  # fmt: skip
        answer = server.post(**body)
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            assert answer.headers["x-ume-ignored"] == "prompt_embeds"


def test_equal_items_are_shared_within_one_key_only(start: Start) -> None:
    server = start()
    keys = server.service.settings.keys
    body = {"input": "a red apple", "mode": "gen", "max_new_tokens": 60}
    began = threading.Barrier(4)

    def ask(key: str) -> None:
        began.wait()
        httpx.post(server.url + "/v1/embeddings", json=body, timeout=60,
                   headers={"authorization": f"Bearer {key}"})  # fmt: skip

    threads = [threading.Thread(target=ask, args=(key,)) for key in (*keys, *keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.session.load().shared <= 2


def test_nothing_that_is_remembered_answers_another_key_sooner(
    start: Start, monkeypatch: pytest.MonkeyPatch, gallery: Path
) -> None:
    """A picture is decoded, and seen by the vision tower, once a key: no cache tells by timing."""
    import ume_qwen.patches
    import ume_torch.vision

    counts = {"decoded": 0, "seen": 0}

    def counted(module: Any, name: str, what: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(ume_qwen.patches, "open_picture", "decoded")
    counted(ume_torch.vision, "encode_visuals", "seen")
    server = start()
    picture = as_url((gallery / "castle.png").read_bytes() + b" ")  # nobody has sent it before
    vectors: list[Any] = []
    found: list[dict[str, int]] = []
    for key in (*server.service.settings.keys, *server.service.settings.keys):
        answer = httpx.post(
            server.url + "/v1/embeddings", json={"input": [{"image": picture}]}, timeout=60,
            headers={"authorization": f"Bearer {key}"},
        )  # fmt: skip
        vectors.append(answer.json()["data"][0]["embedding"])
        found.append(dict(counts))
    assert [f["decoded"] for f in found] == [1, 2, 2, 2]
    assert [f["seen"] for f in found] == [1, 2, 2, 2]
    equal(vectors, [vectors[0]] * 4)


def test_a_flood_of_labels_makes_no_new_series(server: Running) -> None:
    rng = random.Random(1)

    def series() -> set[str]:
        lines = server.service.metrics.text().decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    with server.client() as client:
        client.get("/nowhere")
        client.request("BREW", "/v1/embeddings")
        client.post("/v1/embeddings", json={"input": "a", "model": "none"})
        before = series()
        words = [f"{rng.getrandbits(64):x}" for _ in range(1000)]
        for word in words:
            which = rng.randrange(3)
            if which == 0:
                client.get(f"/{word}")
            elif which == 1:
                client.request(word.upper()[:8], f"/v1/embeddings?{word}")
            else:
                client.post("/v1/embeddings", json={"input": "a", "model": word})
    assert not [s for s in series() - before if any(word in s for word in words)]
    assert len(series()) - len(before) <= 3  # statuses that had not come before


def test_no_side_route_is_open_without_a_key(server: Running) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        with server.client() as known:
            paths = known.get("/openapi.json").json()["paths"]
        named = [(m.upper(), path) for path, ops in paths.items() for m in ops]
        others = [(m, p) for m in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD") for p in (
            "/", "/docs", "/redoc", "/openapi.json", "/invocations", "/pooling", "/metrics",
            "/v1/models", "/v1/embeddings", "/debug", "/health/..", "//metrics", "/health/x",
        )]  # fmt: skip
        for method, path in [*named, *others]:
            answer = client.request(method, path)
            is_open = path in ("/health", "/ready")
            assert (answer.status_code != 401) == is_open, (method, path, answer.status_code)
        for key in ("Bearer", "Bearer wrong", "Basic " + KEY, KEY, f"Bearer {KEY}x", "Bearer é"):
            wrong = [(b"authorization", key.encode("latin-1"))]
            assert client.get("/metrics", headers=wrong).status_code == 401
        assert client.get("/metrics", headers={"x-api-key": KEY}).status_code == 200


def test_a_slow_upload_a_huge_head_and_endless_chunks_end_in_bounded_time(start: Start) -> None:
    server = start(body_seconds=0.5, head_seconds=0.5, body_bytes=100_000)
    began = time.monotonic()
    slow: list[bytes] = []
    uploads = [
        threading.Thread(target=lambda: slow.append(raw(server, head(length=90_000), b"{")))
        for _ in range(5)
    ]
    for thread in uploads:
        thread.start()
    assert server.post(input="a dog").status_code == 200  # others are unhurt meanwhile
    for thread in uploads:
        thread.join()
    assert all(b" 408 " in answer for answer in slow)
    assert b" 408 " in raw(server, b"POST /v1/embeddings HTTP/1.1\r\nhost: loc")
    assert b" 431 " in raw(server, b"GET /health HTTP/1.1\r\nx: " + b"y" * 200_000)
    assert b" 413 " in raw(server, head(length=10**9), b"{")
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    flood = raw(server, head("transfer-encoding: chunked"), *[chunk] * 50)
    assert b" 413 " in flood or flood == b""
    assert b" 400 " in raw(server, b"\x16\x03\x01\x02\x00\x01\x00 nonsense\r\n\r\n")
    assert time.monotonic() - began < 20
    assert server.post(input="a dog").status_code == 200
    assert server.service.admission.received == 0


def test_a_slow_reader_holds_up_nobody_and_is_let_go(start: Start) -> None:
    server = start(send_seconds=0.5)
    body = json.dumps({"input": [f"text {n}" for n in range(1500)]}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(head(length=len(body)) + body)
        end = time.monotonic() + 30
        while server.service.admission.received == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert server.post(input="a dog").status_code == 200
        while server.service.admission.received:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_other_names_of_the_host_are_refused_and_nothing_may_be_framed(server: Running) -> None:
    with server.client() as client:
        for name in ("evil.example", "evil.example:80", "localhost.evil.example", ""):
            assert client.get("/metrics", headers={"host": name}).status_code == 421
        for name in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:80", "10.0.0.7:8000"):
            answer = client.get("/metrics", headers={"host": name})
            assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        origin = {"origin": "https://evil.example"}
        found = client.options("/v1/embeddings", headers=origin)
        assert not [h for h in found.headers if h.startswith("access-control")]


def test_a_hostile_template_in_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    import ume_nano

    for path in ume_nano.path().iterdir():
        (tmp_path / path.name).symlink_to(path)
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    for name, text in (
        ("chat_template.jinja", evil), ("chat_template.json", json.dumps({"chat_template": evil}))
    ):  # fmt: skip
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(ume_core.CheckpointError, match="Fix: "):
        ume_core.load(tmp_path, engine="torch", device="cpu").embed(["a"])
