"""Prometheus metrics: vLLM's names with `ume` before them, the mode a label.

No label takes a client's words: modes, routes and reasons are the server's own, so that no request
makes a new series.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ume_core.session import Embedded, Session
from ume_server.admission import Admission

_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_ROUTES = frozenset((
    "/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/v1/models", "/health", "/ready",
    "/metrics", "/openapi.json", "/", "/search", "/thumbnail",
))  # fmt: skip


class Metrics:
    """What a server counts."""

    def __init__(self, session: Session, admission: Admission, signature: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Live(session, admission, signature))

        def histogram(name: str, text: str, labels: list[str]) -> Histogram:
            return Histogram(f"ume_{name}", text, labels, buckets=_SECONDS, registry=self.registry)

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(f"ume_{name}", text, labels, registry=self.registry)

        self._queued = histogram(
            "request_queue_time_seconds", "From an item's arrival to its computation.", ["mode"]
        )
        self._latency = histogram(
            "e2e_request_latency_seconds", "From a request's arrival to its answer.", ["mode"]
        )
        self._items = counter("request_success", "Items answered.", ["mode", "finished_reason"])
        self._rejected = counter(
            "admission_rejections", "Requests refused before anything was computed.", ["reason"]
        )
        self._tokens = counter("prompt_tokens", "Tokens read.", ["mode"])
        self._written = counter("generation_tokens", "Tokens generated.", ["mode"])
        self._http = counter("http_requests", "Answers by route and status.", ["route", "status"])

    def answered(self, mode: str, found: Embedded) -> None:
        """An item has its vectors."""
        record = found.record
        self._queued.labels(mode).observe(found.waited)
        self._items.labels(mode, "forced" if record.status == "forced" else "stop").inc()
        self._tokens.labels(mode).inc(record.prompt_tokens)
        self._written.labels(mode).inc(record.generated_tokens)

    def failed(self, mode: str, reason: str) -> None:
        """An item has none."""
        self._items.labels(mode, reason).inc()

    def took(self, mode: str, seconds: float) -> None:
        """A request was answered."""
        self._latency.labels(mode).observe(seconds)

    def rejected(self, reason: str) -> None:
        """A request was refused."""
        self._rejected.labels(reason).inc()

    def sent(self, path: str, status: int) -> None:
        """An answer went out."""
        route = path if path in _ROUTES else "other"
        self._http.labels(route, str(status) if 100 <= status < 600 else "other").inc()

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Live(Collector):
    """Gauges that are asked for, not set."""

    def __init__(self, session: Session, admission: Admission, signature: str) -> None:
        self._session, self._admission, self._signature = session, admission, signature

    def collect(self) -> Iterator[Metric]:
        """Read them."""
        load = self._session.load()
        for name, text, values in (
            ("num_requests_running", "Items being computed.", load.running),
            ("num_requests_waiting", "Items that wait.", load.waiting),
        ):
            family = GaugeMetricFamily(f"ume_{name}", text, labels=["mode"])
            for mode, value in values.items():
                family.add_metric([mode], value)
            yield family
        yield GaugeMetricFamily(
            "ume_items_shared", "Items that took the answer of an equal one.", load.shared
        )
        yield GaugeMetricFamily(
            "ume_bytes_received", "Bytes of requests in flight.", self._admission.received
        )
        info = GaugeMetricFamily("ume_model", "What is served.", labels=["signature"])
        info.add_metric([self._signature], 1)
        yield info
