"""A real server on loopback, in a thread, for tests and measurements."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image as PILImage

from ume_core.embedder import Embedder
from ume_core.session import Session, open_session
from ume_server.app import create_app
from ume_server.server import Server, bind, serve
from ume_server.service import Service
from ume_server.settings import Settings
from ume_server.wire.ask import Served

KEY = "a-key-of-the-tests-0123456789"
MODEL = "ume-nano"


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: with scheme and port.
        model: its embedder, for the offline vectors.
        session: what computes.
        service: its admission and metrics.
        server: uvicorn's.
        thread: where it runs.
    """

    url: str
    model: Embedder
    session: Session
    service: Service
    server: Server
    thread: threading.Thread

    @property
    def port(self) -> int:
        """The socket's."""
        return int(self.url.rsplit(":", 1)[1])

    def client(self, **options: Any) -> httpx.Client:
        """A client with the key."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def post(self, **body: Any) -> httpx.Response:
        """One request for embeddings."""
        with self.client() as client:
            return client.post("/v1/embeddings", json=body)

    def gone(self) -> bool:
        """Whether nothing waits, runs or is held any more, within some seconds."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            load = self.session.load()
            held = self.service.admission.items + self.service.admission.received
            if not held and not any((*load.running.values(), *load.waiting.values())):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def running(model: Embedder, settings: Settings, add: Any = None) -> Iterator[Running]:
    """A server of its own."""
    session = open_session(model)
    served = Served(MODEL, ("disc", "gen", "both"), model.dimensions)
    app, service = create_app(session, served, model.signature("disc"), settings, add=add)
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    begun: list[Server] = []
    thread = threading.Thread(target=serve, args=(app, service, session, sock, begun.append))
    thread.start()
    end = time.monotonic() + 30
    while not (begun and begun[0].started):
        assert time.monotonic() < end and thread.is_alive()
        time.sleep(0.005)
    found = Running(f"http://127.0.0.1:{port}", model, session, service, begun[0], thread)
    try:
        yield found
    finally:
        found.server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def equal(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Vectors are those of the library."""
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=tolerance)


def png(size: tuple[int, int] = (8, 8), colour: str = "red") -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    PILImage.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def as_url(data: bytes, kind: str = "image/png") -> str:
    """A data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def message(response: httpx.Response) -> str:
    """What an error says."""
    return response.json()["error"]["message"]
