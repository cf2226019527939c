"""What Prometheus may know of a running server: numbers only, nothing that anybody wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
FIRST_FRAME_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one server, in a registry of their own.

    Attributes:
        requests: answers by route and status.
        rows: explanations by how they left: finished, failed, cancelled.
        tokens: tokens written by the verbalizer.
        first_frame: seconds from a request to the first words of its stream.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "nlakit_requests", "Answers by route and status", ("method", "route", "status"), **own
        )
        self.rows = Counter("nlakit_rows", "Explanations by how they left", ("outcome",), **own)
        self.tokens = Counter("nlakit_tokens", "Tokens written by the verbalizer", **own)
        self.first_frame = Histogram(
            "nlakit_first_frame_seconds",
            "From a request to the first words of its stream",
            buckets=FIRST_FRAME_BUCKETS,
            **own,
        )
        for outcome in ("finished", "failed", "cancelled"):
            self.rows.labels(outcome)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks."""
        Gauge(f"nlakit_{name}", help_text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self.registry)


class Counting:
    """ASGI: counts answers by route and status. Unknown paths share one name."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.metrics.requests.labels(method, route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
