"""The Ray Serve example on a Ray of this machine: real replicas, asked over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import httpx
import pytest

from ume_core.embedder import Embedder
from ume_server.server import bind
from ume_server.testing import MODEL, equal

ray = pytest.importorskip("ray", reason="no Ray: pip install 'ray[serve]'")
DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the example answers."""
    from ray import serve

    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEPLOY)
        # Of this process and, as they are started here, of Ray's.
        for name, value in {
            "PYTHONPATH": str(DEPLOY), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=128 * 2**20, logging_level=logging.ERROR,
        )  # fmt: skip
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(import_module("ray_serve").app)
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def test_replicas_answer_as_the_server_does(address: str, model: Embedder) -> None:
    with httpx.Client(base_url=address, timeout=120) as client:
        assert client.get("/ready").json() == {"status": "ready"}
        answer = client.post("/v1/embeddings", json={"model": MODEL, "input": ["a dog", "a bus"]})
        found = [entry["embedding"] for entry in answer.json()["data"]]
        equal(found, model.embed(["a dog", "a bus"]).disc)
        bad = client.post("/v1/embeddings", json={"model": MODEL, "input": [[1, 2]]})
        assert bad.status_code == 400 and "Fix: " in bad.json()["error"]["message"]
        body = {"model": f"{MODEL}:gen", "input": "a dog", "max_new_tokens": 6, "stream": True}
        with client.stream("POST", "/v1/embeddings", json=body) as streamed:
            lines = list(streamed.iter_lines())
    assert "event: token" in lines and "event: embedding" in lines and "data: [DONE]" in lines
