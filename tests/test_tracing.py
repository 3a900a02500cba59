"""One trace from a request to the decisions that follow it, over processes; nothing when off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from chainlytics.settings import Settings
from chainlytics.tracing import Tracing, span_of
from domain.access import Role
from eventstore.spans import Commanded, Followed, Stored
from tests.collector import Collector, collecting
from tests.serving import (
    NO_TLS,
    SECRET,
    Served,
    accepted,
    free_port,
    order,
    until,
    wait_until_healthy,
)

HEADER = "a key that nobody else knows"
REMOTE = "00f067aa0ba902b7"


def trace() -> str:
    return uuid4().hex


@contextmanager
def process(database: str, home: Path, *command: str, **more: str) -> Iterator[None]:
    """A command of the command line, until it is told to stop."""
    with (home / f"{command[0]}.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", *command],
            env=os.environ
            | {
                "DATABASE_URL": database,
                "CHAINLYTICS_HOME": str(home),
                "CHAINLYTICS_TOKEN_SECRET": SECRET,
            }
            | more,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        assert started.poll() is None, Path(log.name).read_text()
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(timeout=30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def served(
    database: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """API, read models and decisions as processes of their own, which all tell one collector."""
    home = tmp_path_factory.mktemp("traced")
    settings = {
        "CHAINLYTICS_OTLP_ENDPOINT": collector.url,
        "CHAINLYTICS_OTLP_HEADERS": f"x-api-key={HEADER}",
        "CHAINLYTICS_OTLP_SERVICE": "orders of Berlin",
        "CHAINLYTICS_ENVIRONMENT": "tests",
    }
    port = free_port()
    served = Served(f"http://127.0.0.1:{port}")
    with ExitStack() as running:
        running.enter_context(process(database, home, "api", "--port", str(port), **settings))
        running.enter_context(process(database, home, "projector", **settings))
        running.enter_context(process(database, home, "consumer", **settings))
        wait_until_healthy(served, lambda: True)
        yield served


def send(served: Served, trace_id: str, path: str, body: object, flags: str = "01") -> None:
    with served.client() as client:
        headers = {"traceparent": f"00-{trace_id}-{REMOTE}-{flags}"}
        accepted(client.post(path, json=body, headers=headers))


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def one(spans: list[Span], name: str) -> Span:
    [found] = named(spans, name)
    return found


def about(span: Span) -> dict[str, str | int]:
    return {said.key: said.value.string_value or said.value.int_value for said in span.attributes}


def tables(spans: list[Span]) -> set[str]:
    """The read models that have folded something."""
    folded = named(spans, "projection")
    return set(" ".join(str(about(span)["chainlytics.read_models"]) for span in folded).split())


def wait_for(collector: Collector, trace_id: str, *names: str) -> list[Span]:
    def ask() -> list[Span] | None:
        spans = collector.spans(trace_id)
        return spans if set(names) <= {span.name for span in spans} else None

    return until(ask, 30)


def test_one_trace_from_the_request_to_the_read_models(
    served: Served, collector: Collector
) -> None:
    trace_id = trace()
    send(served, trace_id, "/orders", order("O-traced"))
    names = ("POST /api/v1/orders", "PlaceOrder", "projection")
    wait_for(collector, trace_id, *names)
    # Read models are folded in groups, each at its own time.
    until(lambda: {"order_summary", "order_timeline"} <= tables(collector.spans(trace_id)), 30)
    spans = collector.spans(trace_id)
    [event] = {about(span)["chainlytics.event"] for span in named(spans, "projection")}
    request, command = one(spans, "POST /api/v1/orders"), one(spans, "PlaceOrder")
    appended = one(spans, str(event))
    assert request.parent_span_id.hex() == REMOTE
    assert command.parent_span_id == request.span_id
    assert appended.parent_span_id == command.span_id
    folded = named(spans, "projection")
    assert {span.parent_span_id for span in folded} == {appended.span_id}
    assert about(request)["http.response.status_code"] == 201
    assert about(command)["chainlytics.outcome"] == "accepted"
    assert about(appended)["chainlytics.position"] == about(folded[0])["chainlytics.position"]
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert appended.start_time_unix_nano >= command.start_time_unix_nano
    assert len({span.span_id for span in spans}) == len(spans)


def test_a_decision_belongs_to_the_trace_that_asked_for_it(
    served: Served, collector: Collector
) -> None:
    """There is no model: the answer is why not, and its way is the same."""
    send(served, trace(), "/orders", order("O-decided"))
    trace_id = trace()
    body = {"kind": "fulfilment", "subject_id": "O-decided", "decision_id": "D-traced"}
    send(served, trace_id, "/decisions", body)
    spans = wait_for(collector, trace_id, "RequestDecision", "decision-consumer", "projection")
    decision = one(spans, "decision-consumer")
    asked = one(spans, str(about(decision)["chainlytics.event"]))
    assert "DecisionRequested" in asked.name
    assert asked.parent_span_id == one(spans, "RequestDecision").span_id
    assert decision.parent_span_id == asked.span_id

    def answered() -> Span | None:
        children = [
            span for span in collector.spans(trace_id) if span.parent_span_id == decision.span_id
        ]
        return children[0] if children else None

    answer = until(answered)
    assert about(answer)["chainlytics.outcome"] == "accepted"

    def folded() -> list[Span] | None:
        spans = collector.spans(trace_id)
        events = {span.span_id for span in spans if span.parent_span_id == answer.span_id}
        return [
            span for span in named(spans, "projection") if span.parent_span_id in events
        ] or None

    until(folded)
    whole = collector.spans(trace_id)
    known = {span.span_id for span in whole}
    orphans = [span.name for span in whole if span.parent_span_id not in known]
    assert orphans == ["POST /api/v1/decisions"]  # its parent is the sender's


def test_what_many_share_is_a_span_that_is_linked_to_each(
    served: Served, collector: Collector
) -> None:
    trace_id = trace()
    send(served, trace_id, "/orders", order("O-linked"))
    spans = wait_for(collector, trace_id, "PlaceOrder", "projection")
    event = next(
        span for span in spans if named(spans, "PlaceOrder")[0].span_id == span.parent_span_id
    )
    [link] = event.links
    group = until(
        lambda: next(
            (one for one in collector.spans(link.trace_id.hex()) if one.name == "append"), None
        )
    )
    assert group.span_id == link.span_id
    assert (event.trace_id, event.span_id) in {
        (linked.trace_id, linked.span_id) for linked in group.links
    }
    assert about(group)["chainlytics.events"] >= 1  # type: ignore[operator]


def test_a_retry_and_a_refusal_are_spans_of_their_own(served: Served, collector: Collector) -> None:
    trace_id = trace()
    headers = {"traceparent": f"00-{trace_id}-{REMOTE}-00", "Idempotency-Key": "again"}
    with served.client() as client:
        for _ in range(2):
            accepted(client.post("/orders", json=order("O-again"), headers=headers))
        del headers["Idempotency-Key"]
        refused = client.post("/orders", json=order("O-again"), headers=headers)
        assert refused.status_code == 409

    def three() -> list[Span] | None:
        commands = named(collector.spans(trace_id), "PlaceOrder")
        return commands if len(commands) == 3 else None

    commands = until(three)
    assert sorted(str(about(span)["chainlytics.outcome"]) for span in commands) == [
        "accepted",
        "order.already_placed",
        "repeated",
    ]
    assert len({span.span_id for span in commands}) == 3
    requests = named(wait_for(collector, trace_id, "POST /api/v1/orders"), "POST /api/v1/orders")
    assert {span.parent_span_id for span in commands} <= {span.span_id for span in requests}


def test_without_a_traceparent_the_correlation_id_is_the_trace(
    served: Served, collector: Collector
) -> None:
    with served.client(Role.VIEWER) as client:
        answer = client.get("/orders/nobody")
    trace_id = UUID(answer.headers["x-correlation-id"]).hex
    [request] = wait_for(collector, trace_id, "GET /api/v1/orders/{order_id}")
    assert request.parent_span_id == b""
    assert about(request)["http.route"] == "/api/v1/orders/{order_id}"


def test_probes_are_not_followed_and_the_collector_is_told_who_sends(
    served: Served, collector: Collector
) -> None:
    with served.nobody() as client:
        answer = client.get("/health/ready")
        later = client.get("/api/v1/orders")
    send(served, trace(), "/orders", order("O-told"))
    asked = trace()
    send(served, asked, "/decisions", {"kind": "fulfilment", "subject_id": "O-told"})
    wait_for(collector, asked, "decision-consumer", "projection")
    wait_for(collector, UUID(later.headers["x-correlation-id"]).hex, "GET /api/v1/orders")
    assert collector.spans(UUID(answer.headers["x-correlation-id"]).hex) == []
    assert {one.path for one in collector.taken} == {"/v1/traces"}
    assert {one.headers["x-api-key"] for one in collector.taken} == {HEADER}
    bodies = b"".join(one.body for one in collector.taken)
    for told in (b"orders of Berlin", b"tests", b"api", b"projector", b"consumer"):
        assert told in bodies, told
    for secret in (SECRET.encode(), HEADER.encode(), b"O-traced", b"C-1", b"Bearer"):
        assert secret not in bodies, secret


def test_a_collector_that_is_away_holds_up_nobody(database: str, tmp_path: Path) -> None:
    port = free_port()
    gone = f"http://127.0.0.1:{free_port()}"
    with process(database, tmp_path, "api", "--port", str(port), CHAINLYTICS_OTLP_ENDPOINT=gone):
        served = Served(f"http://127.0.0.1:{port}")

        def live() -> bool | None:
            try:
                return (
                    True
                    if httpx.get(served.url + "/health/live", verify=NO_TLS).status_code == 200
                    else None
                )
            except httpx.TransportError:
                return None

        until(live)
        with served.client() as client:
            for number in range(20):
                accepted(client.post("/orders", json=order(f"O-away-{number}")))


def test_all_processes_keep_the_same_share_of_traces() -> None:
    """By the trace's id alone: uuids are not random in all of their bits."""
    with collecting() as collector:
        ids = [uuid4() for _ in range(2000)]
        kept = []
        for _ in range(2):
            tracing = Tracing(collector.url, ratio=0.25)
            for id_ in ids[:400]:
                command = Commanded("PlaceOrder", uuid4(), id_, None, "somebody", "accepted")
                tracing.commands([command], 1)
            tracing.close()
            kept.append({span.trace_id for span in collector.spans()})
            collector.taken.clear()
        none = Tracing(collector.url, ratio=0.0)
        none.commands(
            [Commanded("PlaceOrder", uuid4(), id_, None, "somebody", "accepted") for id_ in ids], 1
        )
        none.close()
        assert collector.spans() == []
    assert kept[0] == kept[1]
    assert 50 < len(kept[0]) < 150


def test_a_long_batch_is_told_in_part_and_nothing_fails() -> None:
    with collecting() as collector:
        tracing = Tracing(collector.url)
        events = [Followed(uuid4(), uuid4(), number, "orders/X") for number in range(20_000)]
        tracing.handled("projection", events, 1, read_models="order_list")
        stored: list[Stored] = []
        tracing.appended(stored, 1)
        tracing.appended([None], 1)  # type: ignore[list-item]
        tracing.close()
        spans = collector.spans()
    batch = one(spans, "projection batch")
    assert about(batch)["chainlytics.events"] == 20_000
    assert 0 < len(spans) <= 501
    assert 0 < len(batch.links) <= 100
    newest = {span_of(event.event_id, "event").to_bytes(8) for event in events[-500:]}
    assert {span.parent_span_id for span in named(spans, "projection")} <= newest


@pytest.mark.parametrize(
    "wrong", [{"otlp_endpoint": "collector:4318"}, {"otlp_ratio": 1.5}, {"otlp_headers": "secret"}]
)
def test_wrong_settings_are_refused_without_their_secrets(
    wrong: dict[str, str | float], monkeypatch: pytest.MonkeyPatch
) -> None:
    [(name, value)] = wrong.items()
    monkeypatch.setenv(f"CHAINLYTICS_{name.upper()}", str(value))
    with pytest.raises(ValueError, match=name) as refused:
        Settings()
    if name == "otlp_headers":
        assert "'secret'" not in str(refused.value)


def test_off_means_that_nothing_of_it_is_imported() -> None:
    """Not by the server, the workers, or the command line. (FastAPI itself imports the API of
    OpenTelemetry, which does nothing without an SDK.)"""
    program = """
import sys
from chainlytics.cli import server
from chainlytics.settings import Settings
from chainlytics.telemetry import error_tracking_of, tracing_of
assert tracing_of(Settings(), "api") is None
assert error_tracking_of(Settings()) is None
ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "sentry_sdk")
print(sorted(name for name in sys.modules if name.startswith(ours)))
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CHAINLYTICS_OTLP", "CHAINLYTICS_SENTRY"))
    }
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert told.stdout.strip() == "[]"
