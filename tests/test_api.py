"""The whole story over HTTP, as a frontend tells it, against `chainlytics serve`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from projections.catalogue import TABLES
from tests.serving import (
    Served,
    accepted,
    assert_problem,
    everything,
    found,
    get,
    order,
    post,
    serving_process,
    until,
)

STORY = UUID("00000000-0000-0000-0000-00000000057a")
SITE = {
    "site_id": "S-BER",
    "name": "Berlin",
    "region": "DE-BE",
    "service_levels": [
        {"code": "standard", "cost_minor": 490, "carbon_g": 500},
        {"code": "express", "cost_minor": 990, "carbon_g": 900},
    ],
    "daily_capacity": 200,
}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def organisation() -> UUID:
    """An organisation of the test's own: its tables are empty."""
    return uuid4()


@pytest.fixture
def client(served: Served, organisation: UUID) -> Iterator[httpx.Client]:
    with served.client(organisation_id=organisation) as client:
        yield client


def test_the_story_of_an_order(client: httpx.Client) -> None:
    opened = post(client, "/sites", SITE)
    assert opened["stream"] == "sites/S-BER"
    assert opened["version"] == 1
    received = post(client, "/stock/S-BER/SKU-1/receive", {"quantity": "12.5"})
    assert received["position"] > opened["position"]
    assert received["id"] == "S-BER/SKU-1"

    # Own writes are read at once: the query waits for the command's position.
    placed = client.post("/orders", json=order("O-1"))
    assert placed.status_code == 201
    assert placed.headers["etag"] == '"1"'
    assert accepted(placed)["stream"] == "orders/O-1"
    assert accepted(placed)["repeated"] is False
    shown = client.get("/orders/O-1", params={"min_position": accepted(placed)["position"]})
    assert found(shown)["status"] == "placed"
    assert found(shown)["goods_minor"] == 3998
    assert found(shown)["placed"]["lines"][0]["sku"] == "SKU-1"
    assert shown.headers["etag"] == placed.headers["etag"]

    steps: list[tuple[str, dict[str, Any], str]] = [
        ("allocate", {"site_id": "S-BER", "service_level": "express"}, "allocated"),
        ("ship", {"carrier": "DHL"}, "shipped"),
        ("deliver", {}, "delivered"),
    ]
    for version, (step, body, status) in enumerate(steps, 2):
        done = client.post(f"/orders/O-1/{step}", json=body)
        assert accepted(done)["version"] == version
        shown = client.get(
            "/orders/O-1", headers={"X-Min-Position": str(accepted(done)["position"])}
        )
        assert found(shown)["status"] == status
        assert shown.headers["etag"] == done.headers["etag"] == f'"{version}"'
    post(client, "/stock/S-BER/SKU-1/pick", {"quantity": "2", "order_id": "O-1"})
    last = post(client, "/stock/S-BER/SKU-1/adjust", {"change": "-0.5", "reason": "broken"})
    here = last["position"]

    summary = get(client, "/orders/O-1", min_position=here)
    assert summary["late"] is False
    assert (summary["site_id"], summary["service_level"]) == ("S-BER", "express")
    timeline = get(client, "/orders/O-1/timeline", min_position=here)
    assert [step["what"] for step in timeline["items"]] == [
        "OrderPlaced",
        "OrderAllocated",
        "OrderShipped",
        "OrderDelivered",
    ]
    assert timeline["next_cursor"] is None
    assert timeline["items"][2]["sentence"] == "Order O-1 left site S-BER"
    assert {step["actor"] for step in timeline["items"]} == {"tester"}

    [stock] = get(client, "/stock", min_position=here)["items"]
    amounts = ("on_hand", "received", "picked", "adjustments")
    assert [float(stock[name]) for name in amounts] == [10, 12.5, 2, 1]
    site = client.get("/sites/S-BER", params={"min_position": here})
    assert found(site)["is_open"] is True
    assert [level["code"] for level in found(site)["service_levels"]] == ["standard", "express"]
    assert site.headers["etag"] == f'"{found(site)["version"]}"'
    [listed] = get(client, "/sites")["items"]
    assert listed == found(site)

    [day] = get(client, "/kpis/daily", min_position=here)["items"]
    assert (day["orders"], day["delivered"], day["late"], day["cancelled"]) == (1, 1, 0, 0)
    assert (day["revenue_minor"], day["currency"], day["late_share"]) == (3998, "EUR", 0.0)

    trail = get(client, "/audit", min_position=here)["items"]
    assert [line["what"] for line in trail] == [
        "SiteOpened",
        "StockReceived",
        "OrderPlaced",
        "OrderAllocated",
        "OrderShipped",
        "OrderDelivered",
        "StockPicked",
        "StockAdjusted",
    ]
    assert trail[0]["position"] == opened["position"]
    assert trail[-1]["position"] == here
    assert trail[-1]["sentence"].startswith("Stock of SKU-1 at site S-BER was adjusted by -0.5")
    orders_only = get(client, "/audit", area="orders")["items"]
    assert [line["version"] for line in orders_only] == [1, 2, 3, 4]
    of_stream = get(client, "/audit", stream_id=orders_only[0]["stream_id"])["items"]
    assert of_stream == orders_only


def test_a_cancelled_order_and_a_closed_site(client: httpx.Client) -> None:
    post(client, "/sites", SITE)
    post(client, "/orders", order("O-1"))
    post(client, "/orders/O-1/cancel", {"reason": "changed mind"})
    closed = post(client, "/sites/S-BER/close", {"reason": "lease ended"})
    shown = get(client, "/orders/O-1", min_position=closed["position"])
    assert (shown["status"], shown["cancel_reason"]) == ("cancelled", "changed mind")
    assert get(client, "/sites/S-BER", min_position=closed["position"])["is_open"] is False
    assert_problem(client.post("/orders/O-1/ship", json={}), 409, "order.already_cancelled")
    receive = client.post("/stock/S-BER/SKU-1/receive", json={"quantity": "1"})
    assert_problem(receive, 409, "site.closed")


def test_a_time_in_another_zone_is_the_same_moment(client: httpx.Client) -> None:
    body = order("O-1", placed_at="2026-03-01T01:30:00+05:00")
    position = post(client, "/orders", body)["position"]
    shown = get(client, "/orders/O-1", min_position=position)
    assert datetime.fromisoformat(shown["placed_at"]) == datetime(2026, 2, 28, 20, 30, tzinfo=UTC)
    [day] = get(client, "/kpis/daily")["items"]
    assert day["day"] == "2026-02-28"


def test_a_retry_gets_the_first_answer(client: httpx.Client) -> None:
    timed = order("O-1", placed_at="2026-01-01T00:00:00Z")
    untimed = order("O-2")
    for body in (timed, untimed):
        key = f"place {body['order_id']}"
        first = post(client, "/orders", body, key)
        again = post(client, "/orders", body, key)
        assert first["repeated"] is False
        assert again == first | {"repeated": True}
        # The order of fields says nothing.
        other = dict(reversed(body.items()))
        assert post(client, "/orders", other, key) == again

        changed = client.post(
            "/orders", json=body | {"customer_id": "C-2"}, headers={"Idempotency-Key": key}
        )
        assert_problem(changed, 409, "idempotency-key-reused")
    # Nothing was done twice, nor by what was refused.
    last = post(client, "/orders", order("O-3"))
    rows = get(client, "/audit", min_position=last["position"])["items"]
    assert [row["what"] for row in rows] == ["OrderPlaced"] * 3
    shown = get(client, "/orders/O-2")
    assert (shown["version"], shown["customer_id"]) == (1, "C-1")


def test_a_retry_is_answered_after_the_world_went_on(client: httpx.Client) -> None:
    post(client, "/sites", SITE)
    placed = post(client, "/orders", order("O-1"), "place")
    allocated = post(client, "/orders/O-1/allocate", {"site_id": "S-BER"}, "allocate")
    post(client, "/orders/O-1/ship", {}, "ship")
    # By now each of them would be refused.
    assert post(client, "/orders", order("O-1"), "place") == placed | {"repeated": True}
    again = post(client, "/orders/O-1/allocate", {"site_id": "S-BER"}, "allocate")
    assert again == allocated | {"repeated": True}
    refused = client.post("/orders/O-1/allocate", json={"site_id": "S-BER"})
    assert_problem(refused, 409, "order.already_shipped")


def test_a_key_covers_the_path_and_the_kind_of_command(client: httpx.Client) -> None:
    post(client, "/sites", SITE, "k")
    post(client, "/stock/S-BER/SKU-1/receive", {"quantity": "5"}, "k-1")
    header = {"Idempotency-Key": "k-1"}
    for path in ("/stock/S-BER/SKU-2/receive", "/stock/S-BER/SKU-1/pick"):
        assert_problem(
            client.post(path, json={"quantity": "5"}, headers=header), 409, "idempotency-key-reused"
        )


def test_a_key_is_the_organisations_own(served: Served, client: httpx.Client) -> None:
    ours = post(client, "/orders", order("O-1"), "place")
    with served.client(organisation_id=uuid4()) as other:
        theirs = post(other, "/orders", order("O-1", customer_id="C-9"), "place")
    assert theirs["repeated"] is False
    assert theirs["position"] > ours["position"]


def test_a_refused_command_leaves_its_key_free(client: httpx.Client) -> None:
    header = {"Idempotency-Key": "k"}
    body = {"site_id": "S-BER"}
    post(client, "/orders", order("O-1"))
    too_early = client.post("/orders/O-1/allocate", json=body, headers=header)
    assert_problem(too_early, 404, "site.unknown")
    post(client, "/sites", SITE)
    assert post(client, "/orders/O-1/allocate", body, "k")["repeated"] is False


def test_pages_go_through_all_rows_once(client: httpx.Client) -> None:
    """Many rows share their time, so that only the whole key orders them."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    position = 0
    for number in range(23):
        body = order(
            f"O-{number * 7 % 23:02}",
            customer_id=f"C-{number % 2}",
            region=("DE-BE", "DE-BY", "FR-75")[number % 3],
            currency=("EUR", "CHF")[number % 2],
            placed_at=(start + timedelta(days=number // 5)).isoformat(),
        )
        position = post(client, "/orders", body)["position"]
    rows = get(client, "/orders", limit=100, min_position=position)["items"]
    assert len(rows) == 23
    keys = [(row["placed_at"], row["order_id"]) for row in rows]
    assert keys == sorted(keys, reverse=True)
    for limit in (1, 4, 22, 23):
        assert everything(client, "/orders", limit=limit) == rows
    for query in ({"customer_id": "C-1"}, {"region": "DE-BY", "customer_id": "C-0"}):
        wanted = [row for row in rows if all(row[name] == query[name] for name in query)]
        assert 0 < len(wanted) < 23
        assert everything(client, "/orders", limit=3, **query) == wanted
    assert everything(client, "/orders", limit=3, status="placed") == rows
    assert everything(client, "/orders", limit=3, status="shipped") == []

    days = get(client, "/kpis/daily", limit=100)["items"]
    assert [(day["day"], day["currency"]) for day in days] == sorted(
        (day["day"], day["currency"]) for day in days
    )
    assert sum(day["orders"] for day in days) == 23
    assert everything(client, "/kpis/daily", limit=2) == days
    middle = get(client, "/kpis/daily", first="2026-01-02", last="2026-01-03")["items"]
    assert {day["day"] for day in middle} == {"2026-01-02", "2026-01-03"}
    assert sum(day["orders"] for day in middle) == 10

    trail = get(client, "/audit", limit=100)["items"]
    assert [line["position"] for line in trail] == sorted(line["position"] for line in trail)
    assert len(trail) == 23
    assert everything(client, "/audit", limit=5) == trail


def test_rows_that_come_in_meanwhile_disturb_no_page(client: httpx.Client) -> None:
    position, placed = 0, {"placed_at": "2026-01-01T00:00:00Z"}
    for number in range(6):
        position = post(client, "/orders", order(f"O-{number}", **placed))["position"]
    first = get(client, "/orders", limit=3, min_position=position)
    later = order("O-9", placed_at="2026-02-01T00:00:00Z")
    position = post(client, "/orders", later)["position"]
    rest = get(client, "/orders", limit=3, cursor=first["next_cursor"], min_position=position)
    ids = [row["order_id"] for row in first["items"] + rest["items"]]
    assert ids == ["O-5", "O-4", "O-3", "O-2", "O-1", "O-0"]
    assert rest["next_cursor"] is None


def test_sites_and_stock_in_pages_and_by_filter(client: httpx.Client) -> None:
    position = 0
    names = ["S-1", "S-10", "S-2", "S_a", "s-1", "S.b", "Sa"]
    for site_id in names:
        post(client, "/sites", {"site_id": site_id})
        for sku in ("A", "a", "B"):
            position = post(client, f"/stock/{site_id}/{sku}/receive", {"quantity": "1"})[
                "position"
            ]
    sites = get(client, "/sites", limit=100, min_position=position)["items"]
    assert sorted(site["site_id"] for site in sites) == sorted(names)
    assert everything(client, "/sites", limit=2) == sites
    stock = get(client, "/stock", limit=100, min_position=position)["items"]
    assert len(stock) == 21
    assert everything(client, "/stock", limit=4) == stock
    one = [row for row in stock if row["sku"] == "a"]
    assert everything(client, "/stock", limit=2, sku="a") == one
    assert len(one) == 7
    both = get(client, "/stock", site_id="S-1", sku="B")["items"]
    assert [(row["site_id"], row["sku"]) for row in both] == [("S-1", "B")]


def test_a_timeline_in_pages(client: httpx.Client) -> None:
    post(client, "/sites", SITE)
    post(client, "/orders", order("O-1"))
    last = 0
    for _ in range(5):
        last = post(client, "/orders/O-1/allocate", {"site_id": "S-BER"})["position"]
    steps = get(client, "/orders/O-1/timeline", min_position=last)["items"]
    assert len(steps) == 6
    assert everything(client, "/orders/O-1/timeline", limit=4) == steps


def test_read_models_say_how_far_they_are(client: httpx.Client) -> None:
    position = post(client, "/orders", order("O-1"))["position"]

    def caught_up() -> list[dict[str, Any]] | None:
        states: list[dict[str, Any]] = get(client, "/projections")["items"]
        return states if all(state["position"] >= position for state in states) else None

    states = until(caught_up)
    assert TABLES.keys() <= {state["name"] for state in states}
    assert all(state["error"] is None for state in states)
    assert all(state["behind"] == state["head"] - state["position"] for state in states)
    health = get(client, "/health")
    assert health["status"] == health["database"] == health["projections"] == "ok"
