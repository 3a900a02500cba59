"""One call for one screen: what it tells, how many queries it takes, and who may see what."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import httpx
import psycopg
import pytest

from api.frontend import condition_of
from domain.access import Role
from readmodels.access import QUERIES
from readmodels.entities import KINDS
from readmodels.frontend import PARTS
from readmodels.positions import ProjectionState, State
from tests.serving import (
    NO_TLS,
    Served,
    assert_problem,
    decided,
    get,
    order,
    post,
    serving_here,
    until,
)
from tests.world import ORGANISATION, a_year, company, deployed_model, open_orders

MOST_QUERIES = 3


def found(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def filled(database: str) -> tuple[str, list[str]]:
    """A made year with a model that decides, and orders to decide on."""

    async def fill() -> list[str]:
        async with company(database) as app:
            await a_year(app, orders=600)
            await deployed_model(app)
            return await open_orders(app, 4)

    return database, asyncio.run(fill())


@pytest.fixture(scope="module")
def served(
    filled: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving_here(filled[0], tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def decision(client: httpx.Client, filled: tuple[str, list[str]]) -> dict[str, Any]:
    """A decision that was asked for and waited for."""
    answer = client.post(
        "/frontend/decision", params={"wait_ms": 30_000}, json={"subject_id": filled[1][0]}
    )
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    decided(client, told["decision_id"])
    return told


@contextmanager
def queries() -> Iterator[list[str]]:
    """What the server's thread asks of the database meanwhile, but for who the caller is."""
    seen: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        text = query if isinstance(query, str) else ""
        if threading.current_thread().name == "server" and re.search(
            r"\b(FROM|JOIN)\s+(read_models\.|projections|artifacts)", text
        ):
            seen.append(text)
        return await execute(self, query, *args, **more)

    with patch.object(psycopg.AsyncCursor, "execute", counted):
        yield seen


def test_every_screen_takes_three_queries_at_the_most(
    client: httpx.Client, decision: dict[str, Any]
) -> None:
    """Counted where psycopg sends them, so that nothing can be asked beside."""
    insights = f"/frontend/decision/{decision['decision_id']}/insights"
    expected = {
        "/frontend/dashboard": 2,
        "/frontend/entities": 1,
        "/frontend/entities?kind=orders&search=O": 1,
        insights: 2,
    }
    counted: dict[str, int] = {}
    for path in expected:
        with queries() as seen:
            found(client.get(path))
        counted[path] = len(seen)
        for query in seen:
            plain = re.sub(r"extract\(\w+ FROM", "extract(", query)
            asked = re.findall(r"\b(?:FROM|JOIN)\s+(events|commands|projections|\w+\.\w+)", plain)
            assert asked
            assert all(name.startswith("read_models.") for name in asked), query
    assert counted == expected
    assert max(counted.values()) <= MOST_QUERIES
    with queries() as seen:
        found(client.get("/frontend/health"))
    assert len(seen) <= 1  # what was seen within a second serves


def test_the_day_at_a_glance(client: httpx.Client, filled: tuple[str, list[str]]) -> None:
    with psycopg.connect(filled[0]) as connection:
        rows = connection.execute(
            """SELECT status, count(*) FROM read_models.order_summary
            WHERE organisation_id = %s AND placed_at::date = (
                SELECT max(placed_at)::date FROM read_models.order_summary
                WHERE organisation_id = %s)
            GROUP BY status""",
            (ORGANISATION, ORGANISATION),
        ).fetchall()
        (last,) = connection.execute(
            """SELECT max(placed_at AT TIME ZONE 'UTC')::date FROM read_models.order_summary
            WHERE organisation_id = %s""",
            (ORGANISATION,),
        ).fetchone() or (None,)
    screen = get(client, "/frontend/dashboard", day=last)
    assert screen["day"] == str(last)
    assert sum(screen["orders"].values()) == sum(many for _, many in rows) > 0
    assert {tile["kpi"]["name"] for tile in screen["kpis"]} >= {"otif", "late_share", "stock_outs"}
    assert screen["decisions"]["count"] >= len(screen["decisions"]["first"])
    assert screen["tours"] == {"by_status": {}, "first": []}
    today = get(client, "/frontend/dashboard")
    assert today["day"] == datetime.now(UTC).date().isoformat()
    assert today["orders"] == {}


def test_an_order_of_today_stands_on_the_screen_at_once(served: Served) -> None:
    with served.client(organisation_id=uuid4()) as client:
        placed = post(client, "/orders", order("O-TODAY"))
        screen = get(client, "/frontend/dashboard", min_position=placed["position"])
        assert screen["orders"] == {"placed": 1}
        kinds = {one["kind"]: one for one in get(client, "/frontend/entities")["kinds"]}
        assert kinds["orders"]["count"] == 1
        assert kinds["orders"]["items"][0]["id"] == "O-TODAY"
        assert kinds["sites"]["count"] == 0


def test_everything_that_there_is(client: httpx.Client) -> None:
    told = {one["kind"]: one for one in get(client, "/frontend/entities")["kinds"]}
    assert set(told) == set(KINDS)
    assert told["sites"]["count"] == 6
    assert told["orders"]["count"] == 600
    assert all(len(one["items"]) <= 5 for one in told.values())


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kind_is_paged_without_gaps(client: httpx.Client, kind: str) -> None:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(4):
        page = get(client, "/frontend/entities", kind=kind, limit=7, **cursor)
        seen += [one["id"] for one in page["kinds"][0]["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    whole = get(client, "/frontend/entities", kind=kind, limit=28)["kinds"][0]["items"]
    assert seen == [one["id"] for one in whole]
    assert len(set(seen)) == len(seen)


def test_a_search_finds_what_holds_the_text(client: httpx.Client) -> None:
    def ids(kind: str, text: str) -> list[str]:
        page = get(client, "/frontend/entities", kind=kind, search=text)
        return [one["id"] for one in page["kinds"][0]["items"]]

    assert ids("sites", "ams") == ["S-AMS"]
    assert ids("sites", "%") == []
    assert ids("orders", "nothing such") == []


def test_a_decision_is_asked_for_and_answered_with_its_reasons(decision: dict[str, Any]) -> None:
    assert decision["status"] == "answered"
    told = decision["insights"]
    assert told["stage"] in ("made", "referred")
    assert told["explanation"]["additive"]
    assert told["factors"]
    assert told["option"]["site_id"]
    assert sum(one["chosen"] for one in told["alternatives"]) == 1
    assert told["alternatives"][0]["chosen"]


def test_a_decision_on_one_screen(client: httpx.Client, decision: dict[str, Any]) -> None:
    id_ = decision["decision_id"]

    def whole() -> dict[str, Any] | None:
        answer = client.get(f"/frontend/decision/{id_}/insights")
        made = answer.status_code == 200 and answer.json()["insights"]["explanation"] is not None
        return answer.json() if made else None

    told = until(whole)
    asked = told["insights"]
    assert asked["explanation"] == decision["insights"]["explanation"]
    explained = get(client, f"/decisions/{id_}/explanation")
    assert asked["explanation"]["summary"] == explained["summary"]
    assert [line["what"] for line in told["timeline"]][:3] == [
        "DecisionRequested",
        "DecisionMade",
        "DecisionExplained",
    ]
    assert asked["outcome"] is None
    assert {one["feature"] for one in asked["levers"]} <= {one["name"] for one in asked["factors"]}
    assert asked["levers"]
    post(client, f"/decisions/{id_}/outcome", {"occurred": False, "followed": True})
    outcome = until(
        lambda: get(client, f"/frontend/decision/{id_}/insights")["insights"]["outcome"]
    )
    assert outcome["followed"] is True


def test_who_does_not_wait_is_told_where_to_look(
    client: httpx.Client, filled: tuple[str, list[str]]
) -> None:
    answer = client.post(
        "/frontend/decision",
        params={"wait_ms": 0},
        json={"subject_id": filled[1][1], "decision_id": "D-LATER", "priority": 9},
        headers={"Idempotency-Key": "later"},
    )
    assert answer.status_code in (200, 202)
    told = answer.json()
    assert told["look_at"] == "/api/v1/frontend/decision/D-LATER/insights"
    if answer.status_code == 202:
        assert answer.headers["Location"] == told["look_at"]
        assert told["insights"] is None
    again = client.post(
        "/frontend/decision",
        params={"wait_ms": 30_000},
        json={"subject_id": filled[1][1], "decision_id": "D-LATER", "priority": 9},
        headers={"Idempotency-Key": "later"},
    )
    assert (again.status_code, again.json()["status"]) == (200, "answered")
    assert again.json()["position"] == told["position"]


def test_a_simulation_on_one_screen(client: httpx.Client) -> None:
    surge = {"kind": "demand_surge", "factor": 1.5}
    scenario = {"horizon_days": 1, "sample_days": 7, "disturbances": [surge]}
    generated = found(client.post("/simulations/generate", json=scenario), 201)
    body = {"scenario_id": generated["scenario_id"], "replications": 1}
    run = found(client.post("/simulations/run", json=body), 202)
    path = f"/frontend/simulation/{run['simulation_id']}/results"

    def ended() -> dict[str, Any] | None:
        told: dict[str, Any] = get(client, path, min_position=run["last_position"])
        return told if told["finished_at"] else None

    told = until(ended)
    assert told["state"] == "completed", told
    assert told["scenario_id"] == generated["scenario_id"]
    assert {one["kpi"] for one in told["results"]["kpis"]} >= {"otif", "lead_time"}
    assert told["results"] == get(client, f"/simulations/{run['simulation_id']}/results")
    with queries() as seen:
        get(client, path)
    assert len(seen) == 2
    assert_problem(client.get("/frontend/simulation/none/results"), 404, "not-found")


def test_a_viewer_looks_and_does_not_ask(
    served: Served, filled: tuple[str, list[str]], decision: dict[str, Any]
) -> None:
    with served.client(Role.VIEWER) as viewer:
        asked = viewer.post("/frontend/decision", json={"subject_id": filled[1][2]})
        assert_problem(asked, 403, "forbidden")
        screen = get(viewer, "/frontend/dashboard")
        assert all(screen[name] is not None for name in (*PARTS, "kpis"))
        get(viewer, f"/frontend/decision/{decision['decision_id']}/insights")
    with served.nobody() as nobody:
        for path in ("dashboard", "entities", "health", "decision/D-1/insights"):
            assert_problem(nobody.get(f"/api/v1/frontend/{path}"), 401)
    with served.client(organisation_id=uuid4()) as other:
        missing = other.get(f"/frontend/decision/{decision['decision_id']}/insights")
        assert_problem(missing, 404, "not-found")


def test_a_part_that_may_not_be_asked_for_by_itself_is_not_on_the_screen_either(
    served: Served,
) -> None:
    """An API key of the dashboard and the orders sees no alerts, decisions, tours or KPIs."""
    scopes = ["frontend.dashboard", "frontend.entities", "orders.list"]
    with served.client() as admin:
        body = {"name": "wall", "roles": ["viewer"], "scopes": scopes}
        key = admin.post("/organisation/api-keys", json=body)
        assert key.status_code in (200, 201), key.text
    with httpx.Client(
        verify=NO_TLS,
        base_url=str(admin.base_url),
        headers={"Authorization": f"Bearer {key.json()['key']}"},
    ) as wall:
        screen = get(wall, "/frontend/dashboard")
        assert screen["orders"] is not None
        assert [screen[name] for name in ("alerts", "decisions", "tours", "kpis")] == [None] * 4
        assert [one["kind"] for one in get(wall, "/frontend/entities")["kinds"]] == ["orders"]
        denied = wall.get("/frontend/entities", params={"kind": "sites"})
        assert_problem(denied, 403, "forbidden")
        assert_problem(wall.get("/frontend/health"), 403, "forbidden")


def test_every_part_of_a_screen_hangs_on_a_rule() -> None:
    """Default deny: a part whose permission nobody named would be seen by nobody."""
    named = [part.permission for part in PARTS.values()]
    named += [kind.permission for kind in KINDS.values()]
    assert set(named) <= set(QUERIES)


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "words"),
    [
        ("entities", {"kind": "unicorns"}, 422, "invalid", "kind"),
        ("entities", {"search": "x"}, 422, "invalid", "goes with `kind`, one of orders"),
        ("entities", {"kind": "orders", "cursor": "x"}, 422, "bad-cursor", "cursor"),
        ("entities", {"kind": "orders", "search": ""}, 422, "invalid", "search"),
        ("entities", {"kind": "orders", "limit": 0}, 422, "invalid", "limit"),
        ("dashboard", {"day": "today"}, 422, "invalid", "day"),
        ("dashboard", {"day": "0001-01-01"}, 422, "bad-report", "outside the years"),
        ("dashboard", {"date": "2026-01-01"}, 422, "invalid", "date"),
        ("decision/D-NONE/insights", {}, 404, "not-found", "D-NONE"),
        ("decision/a%20b/insights", {}, 422, "invalid", "decision_id"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    client: httpx.Client, path: str, query: dict[str, Any], status: int, code: str, words: str
) -> None:
    told = assert_problem(client.get(f"/frontend/{path}", params=query), status, code)
    assert words in told["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid"),
        ({"subject_id": "O-1", "kind": "fortune"}, 422, "decision.unknown_kind"),
        ({"subject_id": "O-NONE"}, 404, "order.unknown"),
        ({"subject_id": "O-1", "priority": 10}, 422, "invalid"),
        ({"subject_id": "O-1", "hurry": True}, 422, "invalid"),
    ],
)
def test_a_wrong_request_is_refused_as_everywhere(
    client: httpx.Client, body: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(client.post("/frontend/decision", json=body), status, code)


def _state(name: str, state: State = State.LIVE, seconds: float = 0.0) -> ProjectionState:
    return ProjectionState(
        name=name,
        state=state,
        position=7 - int(seconds),
        head=7,
        behind=int(seconds),
        seconds_behind=seconds,
        rate=None,
        eta_s=None,
        dead_letters=0,
        diverged=False,
        held=False,
        updated_at=datetime(2026, 3, 1, tzinfo=UTC),
        error=None,
        rebuild=None,
        lanes=[],
    )


def test_health_says_in_words_what_is_wrong() -> None:
    well = [_state("order_summary"), _state("feature_order")]
    assert condition_of(well).sentence == "All is well."
    late = condition_of([*well, _state("sites", seconds=12.4)])
    assert (late.status, late.sentence) == (
        "late",
        "All works; what is shown is up to 12 seconds old.",
    )
    assert [one.name for one in late.late] == ["sites"]
    unwell = condition_of(
        [*well, _state("sites", State.STOPPED), _state("feature_stock", State.STALLED, 90)]
    )
    assert unwell.status == "unwell"
    assert unwell.sentence == ("The read model feature_stock does not move, and 1 more.")
    assert {one.name: one.state for one in unwell.workers} == {
        "read models": "unwell",
        "decisions": "unwell",
    }
    assert condition_of([]).status == "ok"
