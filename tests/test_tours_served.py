"""Tours over HTTP, against the server with its worker: planned, drawn, solved again, driven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.access import Role
from tests.serving import Served, assert_problem, found, get, serving_here, until

PLACES = {"O-1": (52.54, 13.41), "O-2": (52.50, 13.45), "O-3": (52.55, 13.35)}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def boss(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, actor="boss") as client:
        yield client


def post(client: httpx.Client, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = client.post(path, json=body or {})
    assert answer.status_code < 300, (path, answer.text)
    told: dict[str, Any] = answer.json()
    return told


def place(client: httpx.Client, order_id: str, weight_g: int = 5_000, **more: Any) -> None:
    latitude, longitude = PLACES.get(order_id, (52.53, 13.40))
    body = {
        "order_id": order_id,
        "customer_id": "C-1",
        "currency": "EUR",
        "placed_at": "2026-03-01T10:00:00Z",
        "promised_at": "2026-03-02T17:00:00Z",
        "destination": {"latitude": latitude, "longitude": longitude},
        "lines": [
            {
                "line_no": 1,
                "sku": "SKU-1",
                "quantity": "1",
                "unit_price_minor": 100,
                "weight_g": weight_g,
            }
        ],
    }
    post(client, "/orders", body | more)
    at = {"site_id": "S-TOUR", "allocated_at": "2026-03-01T11:00:00Z"}
    post(client, f"/orders/{order_id}/allocate", at)


def planned(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """What came of a task that plans tours."""
    asked = post(
        client,
        "/tours/plan",
        {"site_id": "S-TOUR", "day": "2026-03-02", "iterations": 200, "seed": 3} | body,
    )

    def look() -> dict[str, Any] | None:
        task: dict[str, Any] = found(client.get(f"/tasks/{asked['task_id']}"))
        return task if task["state"] in ("completed", "failed", "cancelled") else None

    return until(look)


@pytest.fixture(scope="module")
def plan(boss: httpx.Client) -> dict[str, Any]:
    """A site with two vans and four orders, one of them too heavy; and its plan."""
    levels = [{"code": "standard", "cost_minor": 500, "carbon_g": 900}]
    post(
        boss,
        "/sites",
        {
            "site_id": "S-TOUR",
            "name": "Berlin",
            "service_levels": levels,
            "location": {"latitude": 52.52, "longitude": 13.405},
        },
    )
    for name in ("V-T1", "V-T2"):
        post(
            boss,
            "/vehicles",
            {
                "vehicle_id": name,
                "site_id": "S-TOUR",
                "mode": "van",
                "service_levels": ["standard"],
                "max_weight_g": 12_000,
            },
        )
    for name in PLACES:
        place(boss, name)
    place(boss, "O-HEAVY", weight_g=90_000)
    task = planned(boss, plan_id="TP-1")
    assert task["state"] == "completed", task
    assert task["result"]["plan_id"] == "TP-1"
    assert (task["result"]["served"], task["result"]["unserved"]) == (3, 1)
    found_plan: dict[str, Any] = get(boss, "/tours/plans/TP-1", min_position=task["last_position"])
    return found_plan


def test_the_plan_takes_all_but_what_is_too_heavy(plan: dict[str, Any]) -> None:
    assert (plan["served"], plan["unserved"], plan["estimate"]) == (3, 1, "rule_based")
    assert (plan["solver"], plan["iterations"], plan["seed"]) == ("pyvrp", 200, 3)
    [left] = plan["plan"]["solution"]["unserved"]
    assert (left["order_id"], left["code"]) == ("O-HEAVY", "tour.too_heavy")
    assert left["values"] == {"weight_g": 90_000, "max_weight_g": 12_000}
    assert plan["cost_minor"] > 0
    assert plan["carbon_g"] > 0


def test_the_plan_is_listed_drawn_and_kept_with_its_problem(
    boss: httpx.Client, plan: dict[str, Any]
) -> None:
    listed = get(boss, "/tours/plans", site_id="S-TOUR", status="planned")
    assert "TP-1" in [one["plan_id"] for one in listed["items"]]
    assert "TP-1" in [one["plan_id"] for one in get(boss, "/tours/plans", search="p-1")["items"]]
    assert get(boss, "/tours/plans", search="100%")["items"] == []
    picture = boss.get("/tours/plans/TP-1/map.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert picture.text.count("<circle") == 3
    assert "too heavy" in picture.text
    kept = boss.get("/tours/plans/TP-1/problem")
    assert len(kept.json()["stops"]) == 4
    history = get(boss, "/tours/plans/TP-1/history")
    assert [entry["what"] for entry in history["items"]] == ["ToursPlanned"]


def test_the_plan_is_solved_again_to_the_byte(boss: httpx.Client, plan: dict[str, Any]) -> None:
    again = post(boss, "/tours/plans/TP-1/replay")
    assert again["same"] is True, again
    assert again["cause"] is None
    assert again["problem_hash"] == plan["problem_hash"]
    assert again["bytes_compared"] > 500


def test_orders_on_a_tour_are_not_planned_twice(boss: httpx.Client, plan: dict[str, Any]) -> None:
    task = planned(boss, order_ids=["O-1", "O-404"], plan_id="TP-2")
    assert task["state"] == "completed", task
    other = get(boss, "/tours/plans/TP-2", min_position=task["last_position"])
    told = {one["order_id"]: one["code"] for one in other["plan"]["solution"]["unserved"]}
    assert told == {"O-1": "tour.order_on_another_tour", "O-404": "tour.order_not_ready"}
    assert other["tours"] == 0


def test_a_day_on_which_nothing_is_to_go_has_no_tours(
    boss: httpx.Client, plan: dict[str, Any]
) -> None:
    """It is no failure: a schedule that plans every day has such days."""
    nowhere = {"site_id": "S-404", "day": "2026-03-02"}
    assert_problem(boss.post("/tours/plan", json=nowhere), 404, "site.unknown")
    task = planned(boss, day="2020-01-01", plan_id="TP-EMPTY")
    assert task["state"] == "completed", task
    assert task["result"] == {
        "tours": 0,
        "served": 0,
        "unserved": 0,
        "nothing_to_plan": "no order of site S-TOUR is to go by 2020-01-01",
    }
    at = task["last_position"]
    assert boss.get("/tours/plans/TP-EMPTY", params={"min_position": at}).status_code == 404
    # Where a plan is to be replaced that cannot be: it stays.
    task = planned(boss, day="2020-01-01", replaces="TP-404")
    assert task["state"] == "failed", task


def test_a_plan_is_replaced(boss: httpx.Client, plan: dict[str, Any]) -> None:
    """The tours of the first plan are given up, and its orders are on those of the second."""
    task = planned(boss, plan_id="TP-3", replaces="TP-1", seed=4)
    assert task["state"] == "completed", task
    at = task["last_position"]
    assert get(boss, "/tours/plans/TP-1", min_position=at)["status"] == "cancelled"
    tours = get(boss, "/tours", plan_id="TP-1", min_position=at)["items"]
    assert {tour["status"] for tour in tours} == {"cancelled"}
    assert get(boss, "/tours/plans/TP-3", min_position=at)["served"] == 3


def test_a_tour_is_driven_and_its_orders_delivered(
    boss: httpx.Client, plan: dict[str, Any]
) -> None:
    tours = get(boss, "/tours", plan_id="TP-3")["items"]
    tour = max(tours, key=lambda one: one["stops"])
    name = tour["tour_id"]
    assert [one["tour_id"] for one in get(boss, "/tours", search=name.lower())["items"]] == [name]
    detail = get(boss, f"/tours/{name}")
    orders = [stop["order_id"] for stop in detail["planned"]["stops"]]
    early = boss.post(f"/tours/{name}/stops/{orders[0]}/complete", json={})
    assert_problem(early, 409, "tour.other_status")
    post(boss, f"/tours/{name}/start", {"started_at": "2026-03-02T07:00:00Z"})
    unshipped = boss.post(f"/tours/{name}/stops/{orders[0]}/complete", json={})
    assert_problem(unshipped, 409, "order.not_shipped")
    for order_id in orders:
        post(boss, f"/orders/{order_id}/ship", {"shipped_at": "2026-03-02T07:00:00Z"})
        proof = {"kind": "signature", "sha256": "b" * 64}
        post(
            boss,
            f"/tours/{name}/stops/{order_id}/complete",
            {"proof": proof, "taken_by": "reception", "completed_at": "2026-03-02T08:00:00Z"},
        )
    end = post(
        boss,
        f"/tours/{name}/finish",
        {"distance_m": tour["planned_distance_m"], "finished_at": "2026-03-02T09:00:00Z"},
    )
    over = get(boss, f"/tours/{name}", min_position=end["position"])
    assert (over["status"], over["completed_stops"], over["failed_stops"]) == (
        "completed",
        len(orders),
        0,
    )
    assert over["carbon_g"] == over["planned_carbon_g"]
    stops = get(boss, "/tours/stops", tour_id=name, min_position=end["position"])["items"]
    assert [stop["order_id"] for stop in stops] == orders
    assert get(boss, "/tours/stops", search=name.lower())["items"] == stops
    assert {stop["proof_kind"] for stop in stops} == {"signature"}
    assert sum(stop["cost_minor"] for stop in stops) == over["cost_minor"]
    order = get(boss, f"/orders/{orders[0]}", min_position=end["position"])
    assert (order["status"], order["delivered_at"]) == ("delivered", "2026-03-02T08:00:00Z")
    told = [entry["what"] for entry in get(boss, f"/tours/{name}/history")["items"]]
    assert told == ["TourPlanned", "TourStarted", *["StopCompleted"] * len(orders), "TourCompleted"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"site_id": "S-TOUR"}, "day"),
        ({"site_id": "S-TOUR", "day": "yesterday"}, "day"),
        ({"site_id": "S-TOUR", "day": "2026-03-02", "iterations": 0}, "iterations"),
        ({"site_id": "S-TOUR", "day": "2026-03-02", "seed": -1}, "seed"),
        ({"site_id": "S-TOUR", "day": "2026-03-02", "order_ids": []}, "order_ids"),
        ({"site_id": "S-TOUR", "day": "2026-03-02", "plan_id": "x" * 60}, "plan_id"),
    ],
)
def test_a_wrong_request_is_told_by_field(
    boss: httpx.Client, body: dict[str, Any], field: str
) -> None:
    problem = assert_problem(boss.post("/tours/plan", json=body), 422, "invalid")
    assert any(field in error["field"] for error in problem["errors"])


def test_what_is_not_there_is_not_found(boss: httpx.Client) -> None:
    for path in ("/tours/T-404", "/tours/plans/TP-404", "/tours/plans/TP-404/map.svg"):
        assert_problem(boss.get(path), 404)
    assert_problem(boss.post("/tours/T-404/start", json={}), 404, "tour.unknown")
    assert_problem(boss.post("/tours/plans/TP-404/replay"), 404)


def test_plans_go_by_tariffs_that_were_set(boss: httpx.Client, plan: dict[str, Any]) -> None:
    """10.00 a tour and nothing else, and 1 g a kilometre: told by the plan that is made next."""
    rows = {row["mode"]: row for row in get(boss, "/tariffs/modes")}
    assert (rows["van"]["basis"], rows["van"]["version"]) == ("estimate", 0)
    tariff = {"currency": "EUR", "fixed_minor": 1000, "source": "a contract"}
    at = post(boss, "/tariffs/modes/van", tariff)["position"]
    factor = {"empty_mg_per_km": 1000, "full_mg_per_km": 1000, "source": "measured"}
    at = post(boss, "/tariffs/emissions/van/diesel", factor)["position"]
    rows = {row["mode"]: row for row in get(boss, "/tariffs/modes", min_position=at)}
    assert (rows["van"]["basis"], rows["van"]["source"]) == ("set", "a contract")
    factors = get(boss, "/tariffs/emissions", min_position=at)
    [found_factor] = [f for f in factors if (f["mode"], f["fuel"]) == ("van", "diesel")]
    assert found_factor["basis"] == "set"
    history = get(boss, "/tariffs/emissions/van/diesel/history")
    assert [entry["what"] for entry in history["items"]] == ["EmissionFactorSet"]
    assert_problem(boss.get("/tariffs/modes/truck/history"), 404)
    place(boss, "O-LATER")
    task = planned(boss, plan_id="TP-8", order_ids=["O-LATER"])
    busy = get(boss, "/tours/plans/TP-8", min_position=task["last_position"])
    [left] = busy["plan"]["solution"]["unserved"]
    assert (left["order_id"], left["code"]) == ("O-LATER", "tour.no_vehicle")
    van = {"vehicle_id": "V-T3", "site_id": "S-TOUR", "mode": "van", "max_weight_g": 12_000}
    at = post(boss, "/vehicles", van | {"service_levels": ["standard"]})["position"]
    get(boss, "/vehicles", min_position=at)
    task = planned(boss, plan_id="TP-9", order_ids=["O-LATER"])
    assert task["state"] == "completed", task
    priced = get(boss, "/tours/plans/TP-9", min_position=task["last_position"])
    assert (priced["tours"], priced["cost_minor"]) == (1, 1000)
    # No vehicle goes on two tours at once, of whichever plans they are.
    vehicles = [
        tour["vehicle_id"]
        for tour in get(boss, "/tours", since="2026-03-02", until="2026-03-03")["items"]
        if tour["status"] != "cancelled"
    ]
    assert len(set(vehicles)) == len(vehicles) == 3
    assert priced["carbon_g"] == (priced["distance_m"] + 500) // 1000


def test_who_only_looks_may_not_drive(served: Served, plan: dict[str, Any]) -> None:
    with served.client(Role.VIEWER) as viewer:
        assert viewer.get("/tours").status_code == 200
        assert_problem(viewer.post("/tours/TP-3.1/start", json={}), 403)
        assert_problem(viewer.post("/tours/plans/TP-1/replay"), 403)
