"""Simulations over HTTP, against the server with its worker: generated, run, followed, compared,
stopped; and the real streams are as they were."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import httpx
import psycopg
import pytest

from domain.access import Role
from ml.simulation_report import PICTURES
from tests.serving import Served, assert_problem, found, get, serving_here, until
from tests.world import a_year, company

SURGE = {"kind": "demand_surge", "factor": 2, "region": "NL"}


@pytest.fixture(scope="module")
def year(database: str) -> str:
    async def fill() -> None:
        async with company(database) as app:
            await a_year(app, orders=400)
            await app.projector.catch_up()
            await app.consumer.catch_up()

    asyncio.run(fill())
    return database


@pytest.fixture(scope="module")
def served(year: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(year, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, actor="boss") as client:
        yield client


def generated(client: httpx.Client, **body: Any) -> dict[str, Any]:
    body = {"seed": 5, "horizon_days": 2, "disturbances": [SURGE]} | body
    answer = client.post("/simulations/generate", json=body)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/v1/simulations/scenarios/{told['scenario_id']}"
    return told


def asked(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/simulations/run", json=body)
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/v1/simulations/{told['simulation_id']}"
    return told


def ended(client: httpx.Client, simulation_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = found(client.get(f"/simulations/{simulation_id}"))
        return told if told["state"] in ("completed", "failed", "cancelled") else None

    return until(look, 120)


def held_by(url: str) -> dict[str, str]:
    """A digest of all events but those of tasks and scenarios, and of each table of read models and
    features, but for those of tasks, scenarios and records of who did what."""
    found = {}
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            """SELECT relname FROM pg_class WHERE relkind = 'r'
                AND relnamespace = 'read_models'::regnamespace ORDER BY 1"""
        ).fetchall()
        queries = {
            name: f"SELECT t::text FROM read_models.{name} AS t ORDER BY 1"
            for (name,) in tables
            if not name.startswith(("task_", "failed_tasks", "scenario_", "audit_"))
        }
        queries["events"] = r"""SELECT e::text FROM events AS e WHERE topic NOT LIKE 'tasks.%'
            AND topic NOT LIKE 'simulations.%' ORDER BY notification_id"""
        for name, query in queries.items():
            rows = "\n".join(row for (row,) in connection.execute(query))
            found[name] = hashlib.sha256(rows.encode()).hexdigest()
    return found


def test_a_scenario_is_generated_told_and_retired(boss: httpx.Client) -> None:
    sites = get(boss, "/sites")["items"]
    site_id = sites[0]["site_id"]
    told = generated(
        boss,
        name="A hot spring",
        horizon_days=14,
        disturbances=[
            SURGE,
            {"kind": "site_closed", "site_id": site_id, "from_day": 2, "to_day": 3},
            {"kind": "supplier_late", "days": 5},
        ],
    )
    name = told["scenario_id"]
    assert told["disturbances"][0]["words"].startswith("Demand from region NL is 2 times")
    assert told["sampled_orders"] > 10
    assert 0 < told["disturbances"][0]["orders"] < told["sampled_orders"]
    assert told["disturbances"][1]["orders"] is not None
    assert told["disturbances"][2]["orders"] is None
    assert told["expected_orders"] == round(told["sampled_orders"] / 28 * 14)
    one = get(boss, f"/simulations/scenarios/{name}", min_position=told["position"])
    assert one["words"] == [each["words"] for each in told["disturbances"]]
    assert (one["seed"], one["generated_by"], one["retired"]) == (5, "boss", False)
    listed = get(boss, "/simulations/scenarios", search="hot SPRING", kind="site_closed")
    assert [each["scenario_id"] for each in listed["items"]] == [name]
    assert get(boss, "/simulations/scenarios", search="hot", kind="price_change")["items"] == []
    assert get(boss, "/simulations/scenarios", search="h%t")["items"] == []
    done = found(boss.post(f"/simulations/scenarios/{name}/retire", json={"reason": "over"}))
    assert done["version"] == 2
    again = boss.post(f"/simulations/scenarios/{name}/retire", json={"reason": "over"})
    assert_problem(again, 409, "scenario.retired")
    gone = get(boss, "/simulations/scenarios", retired="true", min_position=done["position"])
    assert [each["scenario_id"] for each in gone["items"]] == [name]
    events = get(boss, f"/simulations/scenarios/{name}/history")["items"]
    assert [each["what"] for each in events] == ["ScenarioGenerated", "ScenarioRetired"]
    assert_problem(
        boss.post("/simulations/run", json={"scenario_id": name}), 409, "scenario.retired"
    )


@pytest.mark.parametrize(
    ("disturbance", "status", "code"),
    [
        ({"kind": "site_closed", "site_id": "S-404"}, 404, "site.unknown"),
        ({"kind": "vehicle_lost", "vehicle_id": "V-404"}, 404, "vehicle.unknown"),
        ({"kind": "site_closed"}, 422, "invalid"),
        ({"kind": "demand_surge", "factor": 99}, 422, "invalid"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_named(
    boss: httpx.Client, disturbance: dict[str, Any], status: int, code: str
) -> None:
    body = {"scenario_id": "S-wrong", "disturbances": [disturbance]}
    problem = assert_problem(boss.post("/simulations/generate", json=body), status, code)
    told = str(problem)
    assert any(str(value) in told for value in disturbance.values()), told
    assert boss.get("/simulations/scenarios/S-wrong").status_code == 404


def test_a_simulation_is_run_followed_and_shown_and_nothing_else_changes(
    year: str, boss: httpx.Client
) -> None:
    name = generated(boss)["scenario_id"]
    before = held_by(year)
    assert {"events", "order_summary", "feature_orders", "stock_levels"} <= before.keys()
    told = asked(boss, scenario_id=name, replications=2, priority="urgent")
    assert (told["scenario_id"], told["priority"], told["replications"]) == (name, 9, 2)
    one = ended(boss, told["simulation_id"])
    assert one["state"] == "completed", one
    assert one["position"] == told["position"]
    assert one["result"]["replications"] == 2
    assert one["result"]["digest_base_line"] != one["result"]["digest_scenario"]
    assert held_by(year) == before
    path = f"/simulations/{told['simulation_id']}"
    results = get(boss, f"{path}/results")
    assert results["simulation_id"] == told["simulation_id"]
    assert results["decided_by"].keys() <= {"fulfilment: rule_based", "replenishment: rule_based"}
    placed = results["events"]["OrderPlaced"]
    assert placed["scenario"] >= placed["base_line"] > 0
    assert [each["orders"]["base_line"] for each in results["days"]]
    for picture in PICTURES:
        answer = boss.get(f"{path}/results/{picture}.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        assert ElementTree.fromstring(answer.text).tag.endswith("svg")
    report = boss.get(f"{path}/results/report.html")
    assert report.headers["content-type"].startswith("text/html")
    assert "script" not in report.text
    assert boss.get(f"{path}/results/none.svg").status_code == 422
    # The same again, where the log is further: another fork. At the same position: the same.
    again = ended(boss, asked(boss, scenario_id=name, position=told["position"])["simulation_id"])
    assert again["result"]["digest_scenario"] == one["result"]["digest_scenario"]
    assert again["result"]["digest_base_line"] == one["result"]["digest_base_line"]
    both = f"{told['simulation_id']},{again['simulation_id']}"
    compared = get(boss, "/simulations/compare", ids=both)
    assert [each["simulation_id"] for each in compared["simulations"]] == both.split(",")
    otif = next(each for each in compared["kpis"] if each["kpi"] == "otif")
    assert set(otif["simulations"]) == set(both.split(","))
    drawn = boss.get("/simulations/compare.svg", params={"ids": both})
    assert again["simulation_id"][:8] in drawn.text
    page = get(
        boss,
        "/simulations",
        scenario_id=name,
        state="completed",
        sort="requested_position",
        min_position=again["last_position"],
    )
    assert [each["simulation_id"] for each in page["items"]] == both.split(",")
    assert page["items"][0]["result"] == one["result"]
    assert page["items"][0] == one


def test_a_simulation_is_stopped(served: Served, boss: httpx.Client) -> None:
    name = generated(boss, horizon_days=60)["scenario_id"]
    one = asked(boss, scenario_id=name, replications=10)
    told = f"/simulations/{one['simulation_id']}"
    until(lambda: True if get(boss, told)["state"] == "running" else None)
    with served.client(Role.ANALYST, actor="somebody-else") as other:
        refused = other.post(f"{told}/cancel", json={})
        assert_problem(refused, 403, "task.of_somebody_else")
    assert_problem(boss.get(f"{told}/results"), 409, "task.not_completed")
    answer = boss.post(f"{told}/cancel", json={"reason": "enough"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] in ("cancelling", "cancelled")
    assert ended(boss, one["simulation_id"])["state"] == "cancelled"


def test_what_there_is_not_is_not_found(boss: httpx.Client) -> None:
    nothing = str(uuid4())
    for path in ("", "/results", "/results/kpis.svg", "/results/report.html"):
        assert_problem(boss.get(f"/simulations/{nothing}{path}"), 404, "not-found")
    assert_problem(boss.get("/simulations/compare", params={"ids": nothing}), 404, "not-found")
    assert_problem(boss.get("/simulations/compare", params={"ids": ","}), 422, "invalid")
    assert_problem(
        boss.get("/simulations/compare.svg", params={"ids": "a,b,c,d,e,f,g"}), 422, "invalid"
    )
    assert_problem(boss.get("/simulations", params={"sort": "colour"}), 422, "bad-sort")
    assert_problem(boss.get("/simulations/scenarios/S-404"), 404, "not-found")
    assert_problem(boss.get("/simulations/scenarios/S-404/history"), 404, "not-found")
    run = boss.post("/simulations/run", json={"scenario_id": "S-404"})
    assert_problem(run, 404, "scenario.unknown")
    name = generated(boss)["scenario_id"]
    ahead = boss.post("/simulations/run", json={"scenario_id": name, "position": 10**9})
    assert_problem(ahead, 422, "simulation.position_ahead")
    assert_problem(boss.post(f"/simulations/{nothing}/cancel", json={}), 404, "simulation.unknown")


def test_who_may_look_may_not_run(served: Served) -> None:
    with served.client(Role.VIEWER) as viewer:
        assert get(viewer, "/simulations/scenarios")["items"] is not None
        body = {"scenario_id": "S-1", "disturbances": [SURGE]}
        assert_problem(viewer.post("/simulations/generate", json=body), 403, "forbidden")
        assert_problem(viewer.post("/simulations/run", json={"scenario_id": "S"}), 403, "forbidden")
