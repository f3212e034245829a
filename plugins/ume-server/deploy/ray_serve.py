"""The same application in Ray Serve: replicas with an engine each, every one batching for itself.

    pip install 'ray[serve]' and: serve run ray_serve:app

Tried on one machine's Ray without its streams; no test runs it. Ray's own batching is not used: a
session packs by tokens and lets rows join a running batch, which `@serve.batch` cannot.
"""

from __future__ import annotations

from typing import Any

from ray import serve  # pyright: ignore[reportMissingImports]

import ume_core
from ume_core.session import open_session
from ume_server.app import create_app
from ume_server.service import warm
from ume_server.settings import SERVER_LIMITS, SERVER_POLICY, Settings
from ume_server.wire.ask import Served


def build() -> Any:
    """A replica's application; Ray calls it in the replica's process."""
    model = ume_core.load("ume-nano", policy=SERVER_POLICY, limits=SERVER_LIMITS)
    served = Served("ume-nano", ("disc", "gen", "both"), model.dimensions)
    session = open_session(model)
    warm(session, served)
    app, _ = create_app(session, served, model.signature("disc"), Settings())
    return app


@serve.ingress(build)
class Embeddings:
    """One replica."""


deployment: Any = serve.deployment(
    Embeddings,
    max_ongoing_requests=256,
    max_queued_requests=256,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 64},
)
app = deployment.bind()
