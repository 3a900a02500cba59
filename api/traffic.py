"""Requests counted and timed for Prometheus, and followed where somebody follows them.

Labels are what the code declares: a path is its template, so no sender can make a series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from time import perf_counter, time_ns

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventstore.spans import Spans

#: Upper bounds in seconds, of which the last one is open.
BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
#: What no route has, and what no method is.
UNMATCHED, OTHER = "unmatched", "other"
#: The status of a request whose client left before it was answered, as nginx has it.
_LEFT = 499
#: Who asks for these is a probe: it is counted and not followed.
_PROBED = ("/health", "/metrics")


class Traffic(Collector):
    """What was asked of this process since it began. Of one event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        #: Connections that stay open, by kind.
        self.live = {"events": 0, "websocket": 0}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def count(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request was answered. ``seconds``: None where it was a live stream."""
        key = (method, route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if seconds is None:
            return
        timed = (method, route)
        counts = self._durations.get(timed)
        if counts is None:
            counts = self._durations[timed] = [0] * (len(BUCKETS_S) + 1)
            self._sums[timed] = 0.0
        counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sums[timed] += seconds

    def collect(self) -> Iterable[Metric]:
        """The counters as Prometheus wants them."""
        requests = CounterMetricFamily(
            "chainlytics_http_requests_total",
            "Requests answered, by method, route template and status.",
            labels=["method", "route", "status"],
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "chainlytics_http_request_duration_seconds",
            "Time from a request to the end of its answer; live streams are left out.",
            labels=["method", "route"],
        )
        for timed, counts in self._durations.items():
            buckets, so_far = [], 0
            for bound, count in zip((*BUCKETS_S, float("inf")), counts, strict=True):
                so_far += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), so_far))
            durations.add_metric(list(timed), buckets, self._sums[timed])
        yield durations
        yield GaugeMetricFamily(
            "chainlytics_http_requests_in_flight",
            "Requests that are being answered; live streams are left out.",
            value=self.in_flight,
        )
        live = GaugeMetricFamily(
            "chainlytics_live_connections",
            "Connections that are kept open for live events, by kind.",
            labels=["kind"],
        )
        for kind, count in self.live.items():
            live.add_metric([kind], count)
        yield live


class Measured:
    """Counts and times each request. Plain ASGI and outermost, so that it sees every answer.

    Args:
        app: what answers.
        traffic: where it is counted.
        spans: follows requests; None: nobody does.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, spans: Spans | None = None) -> None:
        self._app = app
        self._traffic = traffic
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        traffic, spans = self._traffic, self._spans
        method = scope["method"]
        status = 0
        live = False
        span = began = 0
        if spans is not None:
            span, began = spans.entered(), time_ns()

        async def noted(message: Message) -> None:
            nonlocal status, live
            if message["type"] == "http.response.start":
                status = message["status"]
                if method == "GET" and _is_live(message):
                    live = True
                    traffic.in_flight -= 1
                    traffic.live["events"] += 1
            await send(message)

        traffic.in_flight += 1
        since = perf_counter()
        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = status or 500  # as Starlette answers, behind us
            raise
        finally:
            seconds = perf_counter() - since
            if live:
                traffic.live["events"] -= 1
            else:
                traffic.in_flight -= 1
            route = route_of(scope)
            method = method if method in _METHODS else OTHER
            traffic.count(method, route, status or _LEFT, None if live else seconds)
            if spans is not None and not scope["path"].startswith(_PROBED):
                _followed(spans, scope, span, f"{method} {route}", status or _LEFT, began)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        open_ = 0

        async def noted(message: Message) -> None:
            nonlocal open_
            if message["type"] == "websocket.accept" and not open_:
                open_ = 1
                self._traffic.live["websocket"] += 1
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._traffic.live["websocket"] -= open_


def route_of(scope: Scope) -> str:
    """The template that a request's path has matched, as OpenAPI has it."""
    return getattr(scope.get("route"), "path", None) or UNMATCHED


def _is_live(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message["headers"]
    )


def _followed(spans: Spans, scope: Scope, span: int, name: str, status: int, began: int) -> None:
    correlation_id = scope.get("state", {}).get("correlation_id")
    if correlation_id is None:  # refused before it had one
        return
    sent = next((value for key, value in scope["headers"] if key == b"traceparent"), b"")
    traceparent = sent.decode("latin-1")
    # As the correlation id came about: only a traceparent that gave it names our parent.
    if correlation_id.hex not in traceparent:
        traceparent = ""
    spans.request(span, correlation_id, traceparent, name, status, began)
