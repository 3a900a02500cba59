"""Plans that are made at the same time, by workers that know nothing of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.access import Role
from tests.serving import Served, assert_problem, found, get, post, serving_here, until

#: Iterations of some tenths of a second: all are looking for tours before the first one is done.
LONG = 4_000


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each task is done in a thread of its own, with connections and a cache of its own."""
    with serving_here(database, tmp_path_factory.mktemp("home"), tasks_at_once=4) as (served, _):
        yield served


@pytest.fixture(scope="module")
def boss(served: Served) -> Iterator[httpx.Client]:
    """Two sites; the first one has two vans, the second one has one."""
    with served.client(Role.ADMIN, actor="boss") as client:
        for site_id, latitude in (("S-1", 52.52), ("S-2", 52.6)):
            body = {
                "site_id": site_id,
                "service_levels": [{"code": "standard", "cost_minor": 500, "carbon_g": 900}],
                "location": {"latitude": latitude, "longitude": 13.4},
            }
            post(client, "/sites", body)
        for vehicle_id, site_id in (("V-1", "S-1"), ("V-2", "S-1"), ("V-9", "S-2")):
            body = {"vehicle_id": vehicle_id, "site_id": site_id, "mode": "van"}
            post(client, "/vehicles", body | {"service_levels": ["standard"]})
        yield client


def place(client: httpx.Client, order_id: str, **sites: str) -> None:
    """An order of a line from each of these sites."""
    lines = [
        {"line_no": n, "sku": f"SKU-{n}", "quantity": "1", "unit_price_minor": 100, "weight_g": 500}
        for n in range(1, len(sites) + 1)
    ]
    body = {
        "order_id": order_id,
        "customer_id": "C-1",
        "currency": "EUR",
        "placed_at": "2026-03-01T10:00:00Z",
        "promised_at": "2026-03-02T17:00:00Z",
        "destination": {"latitude": 52.54, "longitude": 13.41},
        "lines": lines,
    }
    post(client, "/orders", body)
    named = list(sites.values())
    at = {
        "site_id": named[0],
        "line_sites": [{"line_no": n, "site_id": s} for n, s in enumerate(named, 1)],
        "allocated_at": "2026-03-01T11:00:00Z",
    }
    post(client, f"/orders/{order_id}/allocate", at)


def asked(client: httpx.Client, **body: Any) -> str:
    """A task that plans tours."""
    told = {"site_id": "S-1", "day": "2026-03-02", "iterations": LONG, "seed": 3}
    answer = client.post("/tours/plan", json=told | body)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def done(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """What came of it."""

    def look() -> dict[str, Any] | None:
        task: dict[str, Any] = found(client.get(f"/tasks/{task_id}"))
        return task if task["state"] in ("completed", "failed", "cancelled") else None

    return until(look)


def live(client: httpx.Client, at: int) -> list[dict[str, Any]]:
    """The tours that nothing ended."""
    tours = get(client, "/tours", limit=100, min_position=at)["items"]
    return [one for one in tours if one["status"] in ("planned", "started")]


def test_an_order_is_on_one_tour_of_four_plans_and_a_vehicle_too(boss: httpx.Client) -> None:
    for number in range(1, 5):
        place(boss, f"O-{number}", one="S-1")
    named = [f"O-{number}" for number in range(1, 5)]
    tasks = [asked(boss, plan_id=f"TP-{n}", order_ids=named) for n in range(1, 5)]
    ended = [done(boss, task) for task in tasks]
    assert {task["state"] for task in ended} == {"completed"}, ended
    at = max(task["last_position"] for task in ended)
    tours = live(boss, at)
    stops = [
        stop["order_id"]
        for tour in tours
        for stop in get(boss, "/tours/stops", tour_id=tour["tour_id"])["items"]
    ]
    assert sorted(stops) == named
    assert max(Counter(tour["vehicle_id"] for tour in tours).values()) == 1
    assert sorted(task["result"]["served"] for task in ended) == [0, 0, 0, 4]
    # Whoever named the orders is told why not.
    lost = next(task for task in ended if task["result"]["served"] == 0)
    plan = get(boss, f"/tours/plans/{lost['result']['plan_id']}", min_position=at)
    codes = {one["code"] for one in plan["plan"]["solution"]["unserved"]}
    assert codes == {"tour.order_on_another_tour"}


def test_different_orders_do_not_go_by_one_vehicle(boss: httpx.Client) -> None:
    """One van: who is later is told that there is none."""
    for number in range(4):
        place(boss, f"N-{number}", one="S-2")
    tasks = [asked(boss, site_id="S-2", plan_id=f"TQ-{n}", order_ids=[f"N-{n}"]) for n in range(4)]
    ended = [done(boss, task) for task in tasks]
    assert {task["state"] for task in ended} == {"completed"}, ended
    at = max(task["last_position"] for task in ended)
    assert [tour["vehicle_id"] for tour in live(boss, at)].count("V-9") == 1
    assert sorted(task["result"]["served"] for task in ended) == [0, 0, 0, 1]
    lost = next(task for task in ended if task["result"]["served"] == 0)
    plan = get(boss, f"/tours/plans/{lost['result']['plan_id']}", min_position=at)
    [left] = plan["plan"]["solution"]["unserved"]
    assert left["code"] == "tour.no_vehicle"


def test_an_order_of_two_sites_is_on_a_tour_of_each_and_each_hands_over_its_own(
    boss: httpx.Client,
) -> None:
    """Of the second site it is found by its line, and not left out for the first one's tour."""
    day = {"day": "2026-03-03"}
    place(boss, "M-1", one="S-1", other="S-2")
    ended = [
        done(boss, asked(boss, plan_id="TM-1", site_id="S-1", **day)),
        done(boss, asked(boss, plan_id="TM-2", site_id="S-2", **day)),
    ]
    assert [task["result"]["served"] >= 1 for task in ended] == [True, True], ended
    at = max(task["last_position"] for task in ended)
    tours = {
        tour["site_id"]: tour
        for tour in live(boss, at)
        for stop in get(boss, "/tours/stops", tour_id=tour["tour_id"])["items"]
        if stop["order_id"] == "M-1"
    }
    assert set(tours) == {"S-1", "S-2"}
    for number, site_id in enumerate(("S-1", "S-2"), 1):
        tour = tours[site_id]
        post(boss, f"/tours/{tour['tour_id']}/start", {"started_at": "2026-03-03T07:00:00Z"})
        part = {
            "shipment_id": site_id,
            "lines": [{"line_no": number, "quantity": "1"}],
            "vehicle_id": tour["vehicle_id"],
        }
        post(boss, "/orders/M-1/shipments", part)
    path = f"/tours/{tours['S-1']['tour_id']}/stops/M-1/complete"
    at = post(boss, path, {"completed_at": "2026-03-03T09:00:00Z"})["position"]
    parts = get(boss, "/orders/M-1/shipments", min_position=at)["items"]
    assert {one["shipment_id"]: one["status"] for one in parts} == {
        "S-1": "delivered",
        "S-2": "shipped",
    }
    assert_problem(boss.post(path, json={}), 409, "tour.stop_is_done")
    path = f"/tours/{tours['S-2']['tour_id']}/stops/M-1/complete"
    at = post(boss, path, {"completed_at": "2026-03-03T10:00:00Z"})["position"]
    assert get(boss, "/orders/M-1", min_position=at)["status"] == "delivered"
