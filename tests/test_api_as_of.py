"""The past over HTTP: every query takes `as_of`, a log position or a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.serving import Served, accepted, assert_problem, found, order, serving_here
from tests.test_api import SITE


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    organisation: UUID = uuid4()
    with served.client(organisation_id=organisation) as client:
        yield client


def post(client: httpx.Client, path: str, body: Any) -> int:
    return int(accepted(client.post(path, json=body))["position"])


def test_a_query_answers_what_it_answered_then(client: httpx.Client) -> None:
    opened = post(client, "/sites", SITE)
    placed = post(client, "/orders", order("O-1"))
    cancelled = post(client, "/orders/O-1/cancel", {"reason": "changed mind"})

    def status(as_of: int) -> Any:
        answer = client.get("/orders/O-1", params={"as_of": as_of})
        if answer.status_code == 404:
            return None
        assert answer.headers["As-Of-Position"] == str(as_of)
        return found(answer)["status"]

    assert [status(p) for p in (opened, placed, cancelled)] == [None, "placed", "cancelled"]
    now = found(client.get("/orders/O-1", params={"min_position": cancelled}))
    assert found(client.get("/orders/O-1", params={"as_of": cancelled})) == now
    listed = found(client.get("/orders", params={"as_of": opened}))
    assert listed == {"items": [], "next_cursor": None}
    # The ways of a list, filters and pages, are the same in the past.
    post(client, "/orders", order("O-2"))
    last = post(client, "/orders", order("O-3"))
    page = found(client.get("/orders", params={"as_of": last, "limit": 2}))
    assert len(page["items"]) == 2
    rest = found(client.get("/orders", params={"as_of": last, "cursor": page["next_cursor"]}))
    ids = {item["order_id"] for item in (*page["items"], *rest["items"])}
    assert ids == {"O-1", "O-2", "O-3"}
    placed_then: dict[str, str | int] = {"as_of": last, "status": "placed"}
    assert len(found(client.get("/orders", params=placed_then))["items"]) == 2


def test_a_time_will_do(client: httpx.Client) -> None:
    post(client, "/sites", SITE)
    between = datetime.now(UTC)
    position = post(client, "/sites", SITE | {"site_id": "S-2"})
    answer = client.get("/sites", params={"as_of": between.isoformat()})
    assert [site["site_id"] for site in found(answer)["items"]] == ["S-BER"]
    assert int(answer.headers["As-Of-Position"]) < position
    # A plus sign that nobody escaped is a space in a query.
    local = (between + timedelta(hours=2)).isoformat().replace("+00:00", "+02:00")
    answer = client.get(f"/sites?as_of={local}")
    assert [site["site_id"] for site in found(answer)["items"]] == ["S-BER"]


def test_stock_by_the_time_from_which_it_counts(client: httpx.Client) -> None:
    post(client, "/sites", SITE)
    for quantity, day in (("10", "2026-03-01"), ("5", "2026-02-01")):
        body = {"quantity": quantity, "received_at": f"{day}T12:00:00Z"}
        post(client, "/stock/S-BER/A/receive", body)

    def on_hand(day: str) -> list[str]:
        answer = client.get("/stock", params={"effective_at": f"{day}T00:00:00Z"})
        return [row["on_hand"] for row in found(answer)["items"]]

    assert on_hand("2026-01-15") == []
    assert [float(quantity) for quantity in on_hand("2026-02-15")] == [5.0]
    assert [float(quantity) for quantity in on_hand("2026-03-15")] == [15.0]
    answer = client.get("/orders", params={"effective_at": "2026-02-15T00:00:00Z"})
    problem = assert_problem(answer, 422, "no-effective-time")
    assert "order_summary knows no time" in problem["detail"]


@pytest.mark.parametrize(
    ("as_of", "detail"),
    [
        ("yesterday", "'yesterday' is neither a log position nor a time with zone"),
        ("2026-03-01T12:00:00", "is neither a log position nor a time with zone"),
        ("-1", "is neither a log position"),
        ("٣", "is neither a log position"),
        ("99999999999999999999", "the log ends at position"),
        ("2999-01-01T00:00:00Z", "is not in the past"),
    ],
)
def test_a_moment_that_is_none_is_refused(client: httpx.Client, as_of: str, detail: str) -> None:
    problem = assert_problem(client.get("/orders", params={"as_of": as_of}), 422, "bad-as-of")
    assert detail in problem["detail"]


def test_every_read_model_query_takes_as_of(served: Served) -> None:
    with served.nobody() as client:
        paths = client.get("/openapi.json").json()["paths"]
    without = {
        path.removeprefix("/api/v1")
        for path, ways in paths.items()
        if "get" in ways
        and "as_of" not in {one["name"] for one in ways["get"].get("parameters", [])}
    }
    # What is no query of a read model: states of the machinery, the log itself, proofs, records,
    # what the installation can export and import.
    assert without == {
        "/archive/segments",
        "/asyncapi.json",
        "/auth/health",
        "/auth/me",
        "/auth/sessions",
        "/audit/checkpoint",
        "/audit/commands",
        "/audit/heads",
        "/audit/keys",
        "/audit/personal-access",
        "/audit/proofs/consistency",
        "/audit/proofs/decisions",
        "/audit/proofs/inclusion",
        "/audit/retention",
        "/audit/witnesses",
        "/exports",
        "/frontend/health",
        "/health",
        "/health/database",
        "/health/live",
        "/health/ml",
        "/health/ready",
        "/imports",
        "/imports/{entity}/template.csv",
        "/metrics",
        "/organisation/permissions",
        "/organisations",
        "/relay",
        "/schemas",
        "/schemas/{topic}",
        "/stream",
        "/tasks/queue",
        "/projections",
        "/projections/stream",
        "/projections/{name}",
        "/projections/{name}/dead-letters",
        "/users/preferences",
        "/users/profile",
        "/webhooks/{webhook_id}/backlog",
        "/webhooks/{webhook_id}/dead-letters",
        "/webhooks/{webhook_id}/deliveries",
        "/webhooks/{webhook_id}/deliveries/{position}/attempts",
    }
