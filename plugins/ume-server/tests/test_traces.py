"""Traces go where OpenTelemetry is told, and nowhere by default."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ume_core.testing import FakeEmbedder
from ume_server.settings import Settings
from ume_server.testing import running

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
with running(FakeEmbedder(), Settings()) as server:
    assert server.post(input="a secret text").status_code == 200
spans = [[s.name, {k: str(v) for k, v in s.attributes.items()}] for s in kept.get_finished_spans()]
print(json.dumps(spans))
"""


def test_a_request_is_traced_without_what_it_says() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    spans = json.loads(found.stdout.splitlines()[-1])
    names = [name for name, _ in spans]
    assert any("/v1/embeddings" in name for name in names), names
    assert "secret" not in found.stdout
