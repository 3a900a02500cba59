"""Unexpected errors are reported to what speaks as Sentry does, and nothing of anybody."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from pydantic import SecretStr

from chainlytics.cli.server import _workers_in_thread
from chainlytics.error_tracking import ErrorTracking
from chainlytics.settings import Settings
from chainlytics.telemetry import configure_logs, error_tracking_of
from tests.collector import Collector, collecting
from tests.serving import SECRET, assert_problem, free_port, order, serving_here, until

KEY = "0123456789abcdef0123456789abcdef"
PERSON, CARD = "anna.bolika@example.org", "4111-1111-1111-1111"


def dsn(collector: Collector) -> str:
    return collector.url.replace("http://", f"http://{KEY}@") + "/7"


@contextmanager
def reporting(settings: Settings) -> Iterator[ErrorTracking]:
    """Logs as the command line configures them, for a while."""
    before = structlog.get_config()
    tracking = error_tracking_of(settings)
    assert tracking is not None
    configure_logs("CRITICAL", errors=tracking)
    # Lines below the level are not even looked at: those of errors are to be.
    configure_logs("ERROR", errors=tracking)
    try:
        yield tracking
    finally:
        tracking.close()
        structlog.configure(**before)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def events(collector: Collector) -> list[dict[str, Any]]:
    """The events in the envelopes that came."""
    found = []
    for one in list(collector.taken):
        lines = one.body.splitlines()
        for header, body in zip(lines[1::2], lines[2::2], strict=True):
            if json.loads(header)["type"] == "event":
                found.append(json.loads(body))
    return found


def first(collector: Collector) -> dict[str, Any]:
    return until(lambda: next(iter(events(collector)), None), 20)


def settings_of(collector: Collector, home: Path, **more: Any) -> Settings:
    return Settings(
        home=home,
        token_secret=SECRET,
        sentry_dsn=SecretStr(dsn(collector)),
        environment="tests",
        **more,
    )


def test_an_unexpected_error_is_reported_with_its_place_and_id_alone(
    collector: Collector, database: str, tmp_path: Path
) -> None:
    with (
        serving_here(database, tmp_path) as (served, app),
        reporting(settings_of(collector, tmp_path)),
    ):

        @app.post("/broken")
        async def broken(body: dict[str, str]) -> None:
            card = body["card"]
            raise RuntimeError(f"{body['email']} has no {card}")

        correlation_id = str(uuid4())
        with served.client() as client:
            answer = client.post(
                served.url + "/broken",
                json={"email": PERSON, "card": CARD},
                headers={"X-Correlation-ID": correlation_id, "Cookie": "session=abc123"},
            )
            assert_problem(answer, 500, "unexpected")
            bearer = client.headers["Authorization"].removeprefix("Bearer ")
        event = first(collector)
    assert event["tags"]["correlation_id"] == correlation_id
    assert event["tags"]["event"] == "unexpected error"
    assert event["environment"] == "tests"
    assert event["release"].startswith("chainlytics@")
    [error] = event["exception"]["values"]
    assert error["type"] == "RuntimeError"
    assert error["stacktrace"]["frames"][-1]["function"] == "broken"
    assert error["stacktrace"]["frames"][-1]["lineno"] > 0
    sent = b"".join(one.body for one in collector.taken)
    secrets = (PERSON, CARD, bearer, SECRET, "abc123", "127.0.0.1", str(tmp_path), served.url)
    for secret in secrets:
        assert secret.encode() not in sent, secret
    for name in ("request", "user", "server_name", "breadcrumbs", "vars", "contexts", "modules"):
        assert f'"{name}"'.encode() not in sent, name
    [path] = {one.path for one in collector.taken}
    assert path == "/api/7/envelope/"


def test_expected_errors_are_not_reported(
    collector: Collector, database: str, tmp_path: Path
) -> None:
    with (
        serving_here(database, tmp_path) as (served, _),
        reporting(settings_of(collector, tmp_path)) as tracking,
        served.client() as client,
    ):
        client.post("/orders", json=order("O-1"))
        assert client.post("/orders", json=order("O-1")).status_code == 409
        assert client.get("/orders/nobody").status_code == 404
        assert client.post("/orders", json={}).status_code == 422
        tracking.close()
    assert collector.taken == []


def test_workers_that_start_again_are_reported(collector: Collector, tmp_path: Path) -> None:
    """Without a word of the database: its address and password are in the error's text."""
    port = free_port()
    url = f"postgresql://planner:hunter2hunter2@127.0.0.1:{port}/nothing"
    settings = settings_of(collector, tmp_path)
    with reporting(settings), _workers_in_thread(url, settings):
        event = first(collector)
    assert event["tags"]["event"] == "workers start again"
    assert event["exception"]["values"]
    sent = b"".join(one.body for one in collector.taken)
    for secret in ("hunter2hunter2", "planner", str(port), "127.0.0.1"):
        assert secret.encode() not in sent, secret


def test_a_storm_of_one_error_is_one_report(collector: Collector, tmp_path: Path) -> None:
    with reporting(settings_of(collector, tmp_path)):
        log = structlog.get_logger()
        for number in range(50):
            try:
                raise ValueError(number)
            except ValueError:
                log.exception("again")
        try:
            raise KeyError("another")
        except KeyError as error:
            log.error("another one", exc_info=error)
        log.error("no traceback", error="nothing to report")
        until(lambda: True if len(events(collector)) == 2 else None, 20)
    kinds = [one["exception"]["values"][-1]["type"] for one in events(collector)]
    assert sorted(kinds) == ["KeyError", "ValueError"]


@pytest.mark.parametrize("wrong", ["not a dsn", f"http://{KEY}@", "https://sentry.io/1"])
def test_a_wrong_dsn_is_refused_and_not_told(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINLYTICS_SENTRY_DSN", wrong)
    with pytest.raises(ValueError, match="sentry_dsn") as refused:
        Settings()
    assert wrong not in str(refused.value)


def test_nothing_of_the_interpreter_is_changed(collector: Collector, tmp_path: Path) -> None:
    """No hook, no patched library: errors go out where we log them, nowhere else."""
    hook = sys.excepthook
    with reporting(settings_of(collector, tmp_path)):
        assert sys.excepthook is hook
