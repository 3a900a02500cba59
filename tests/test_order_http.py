"""Orders over HTTP: one through its whole life, the plain way, and what is wrong with a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.serving import Served, accepted, assert_problem, found, get, post, serving_here

BERLIN = {"latitude": 52.520008, "longitude": 13.404954}
WINDOW = {"starts_at": "2026-03-06T08:00:00Z", "ends_at": "2026-03-06T12:00:00Z"}


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(organisation_id=uuid4()) as client:
        accepted(client.post("/sites", json={"site_id": "S-1"}))
        yield client


ORDER = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "currency": "EUR",
    "placed_at": "2026-03-01T12:00:00Z",
    "promised_at": "2026-03-06T12:00:00Z",
    "lines": [
        {"line_no": 1, "sku": "A", "quantity": "10", "unit_price_minor": 150},
        {"line_no": 2, "sku": "B", "quantity": "4", "unit_price_minor": 1000},
    ],
    "destination": BERLIN,
    "delivery_window": WINDOW,
}


def figures(row: dict[str, Any], *names: str) -> list[float | None]:
    return [None if row[name] is None else float(row[name]) for name in names]


LINE_FIGURES = ("reserved", "backordered", "shipped", "delivered", "returned", "cancelled")


def lines_of(client: httpx.Client, order_id: str, position: int) -> list[list[float | None]]:
    page = get(client, f"/orders/{order_id}/lines", min_position=position)
    return [figures(row, *LINE_FIGURES) for row in page["items"]]


def test_one_order_through_its_whole_life(client: httpx.Client) -> None:
    post(client, "/stock/S-1/A/receive", {"quantity": "6"})
    post(client, "/stock/S-1/B/receive", {"quantity": "4"})
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})
    at = post(client, "/orders/O-1/reserve", {})["position"]
    assert lines_of(client, "O-1", at) == [[6, 4, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]]
    [waiting] = get(client, "/backorders", site_id="S-1", sku="A", min_position=at)["items"]
    assert (waiting["order_id"], waiting["line_no"], float(waiting["quantity"])) == ("O-1", 1, 4)
    stock = get(client, "/stock", min_position=at)["items"]
    assert [figures(row, "on_hand", "reserved", "available") for row in stock] == [
        [6, 6, 0],
        [4, 4, 0],
    ]

    told = {"shipment_id": "P-1", "lines": [{"line_no": 1, "quantity": "6"}], "carrier": "DHL"}
    at = post(client, "/orders/O-1/shipments", told)["position"]
    summary = get(client, "/orders/O-1", min_position=at)
    assert summary["status"] == "partly_shipped"
    assert figures(summary, "shipped", "reserved", "backordered") == [6, 4, 4]

    split = {"new_order_id": "O-1-B", "lines": [{"line_no": 1, "quantity": "3"}]}
    post(client, "/orders/O-1/split", split)
    post(client, "/stock/S-1/A/receive", {"quantity": "5"})
    at = post(client, "/orders/O-1-B/fill", {})["position"]
    assert lines_of(client, "O-1-B", at) == [[3, 0, 0, 0, 0, 0]]
    again = get(client, "/orders/O-1-B")
    assert (again["split_from"], again["status"]) == ("O-1", "allocated")

    drop = {"lines": [{"line_no": 1, "quantity": "1"}], "reason": "not needed"}
    post(client, "/orders/O-1/cancel-lines", drop)
    later = {"promised_at": "2026-03-08T12:00:00Z", "reason": "snow"}
    post(client, "/orders/O-1/repromise", later)
    at = post(client, "/orders/O-1/ship", {})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 6, 0, 0, 1], [0, 0, 4, 0, 0, 0]]
    assert get(client, "/backorders", min_position=at)["items"] == []

    proof = {"kind": "signature", "sha256": "ab" * 32, "reference": "POD-1"}
    body = {"delivered_at": "2026-03-06T12:01:30Z", "proof": proof}
    post(client, "/orders/O-1/shipments/P-1/deliver", body)
    body = {"delivered_at": "2026-03-06T11:00:00Z"}
    post(client, "/orders/O-1/shipments/1/deliver", body)
    back = {"return_id": "R-1", "lines": [{"line_no": 1, "quantity": "2"}], "site_id": "S-1"}
    at = post(client, "/orders/O-1/returns", back | {"reason": "too small"})["position"]

    summary = get(client, "/orders/O-1", min_position=at)
    assert (summary["status"], summary["late"], summary["late_s"]) == ("delivered", True, 90)
    assert summary["promised_at"] == "2026-03-06T12:00:00Z"
    assert summary["repromised_to"] == "2026-03-08T12:00:00Z"
    assert figures(summary, "units", "shipped", "delivered", "returned", "cancelled") == [
        11,
        10,
        10,
        2,
        1,
    ]
    assert figures(summary, "latitude", "longitude") == [52.520008, 13.404954]
    assert summary["deliver_until"] == WINDOW["ends_at"]
    assert lines_of(client, "O-1", at) == [[0, 0, 6, 6, 2, 1], [0, 0, 4, 4, 0, 0]]
    shipments = get(client, "/shipments", order_id="O-1", sort="shipment_id")["items"]
    assert [(one["shipment_id"], one["status"], one["late_s"]) for one in shipments] == [
        ("1", "delivered", -3600),
        ("P-1", "delivered", 90),
    ]
    assert shipments[1]["proof_sha256"] == "ab" * 32
    assert get(client, "/orders/O-1/shipments")["items"][0]["order_id"] == "O-1"
    [returned] = get(client, "/returns", search="small")["items"]
    assert (returned["return_id"], returned["goods_minor"]) == ("R-1", 300)
    assert get(client, "/orders/O-1/returns")["items"] == [returned]
    stock = get(client, "/stock", min_position=at)["items"]
    assert [figures(row, "on_hand", "reserved", "available") for row in stock] == [
        [7, 3, 4],
        [0, 0, 0],
    ]
    history = get(client, "/orders/O-1/history")["items"]
    assert [one["version"] for one in history] == list(range(1, len(history) + 1))
    assert history[-1]["what"] == "LinesReturned"
    timeline = get(client, "/orders/O-1/timeline", min_position=at)["items"]
    assert [one["what"] for one in timeline] == [one["what"] for one in history]


def test_the_plain_way_shows_in_the_same_lists(client: httpx.Client) -> None:
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})
    at = post(client, "/orders/O-1/ship", {"carrier": "DHL"})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 10, 0, 0, 0], [0, 0, 4, 0, 0, 0]]
    at = post(client, "/orders/O-1/deliver", {"delivered_at": "2026-03-06T12:00:00Z"})["position"]
    assert lines_of(client, "O-1", at) == [[0, 0, 10, 10, 0, 0], [0, 0, 4, 4, 0, 0]]
    [shipment] = get(client, "/shipments", min_position=at)["items"]
    assert (shipment["shipment_id"], shipment["carrier"], shipment["late_s"]) == ("1", "DHL", 0)
    assert float(shipment["units"]) == 14
    post(client, "/orders", ORDER | {"order_id": "O-2"})
    at = post(client, "/orders/O-2/cancel", {"reason": "x"})["position"]
    assert lines_of(client, "O-2", at) == [[0, 0, 0, 0, 0, 10], [0, 0, 0, 0, 0, 4]]
    listed = get(client, "/orders", search="o-2", min_position=at)["items"]
    assert [one["order_id"] for one in listed] == ["O-2"]


def test_bad_requests_are_answered_with_what_is_wrong(client: httpx.Client) -> None:
    post(client, "/orders", ORDER)
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})

    def refused(path: str, body: dict[str, Any], status: int, code: str) -> dict[str, Any]:
        return assert_problem(client.post(f"/orders{path}", json=body), status, code)

    one = {"lines": [{"line_no": 1, "quantity": "1"}]}
    told = refused("/O-1/reserve", {"partial": False}, 409, "stock.not_enough")
    assert "sku=A" in told["detail"]
    refused("/O-9/reserve", {}, 404, "order.unknown")
    refused("/O-1/fill", {}, 409, "order.not_backordered")
    refused("/O-1/release", {}, 409, "order.not_reserved")
    refused("/O-1/shipments/1/deliver", {}, 409, "order.not_shipped")
    by_van = one | {"shipment_id": "P-1", "vehicle_id": "V-9"}
    told = refused("/O-1/shipments", by_van, 404, "vehicle.unknown")
    assert "V-9" in told["detail"]
    refused("/O-1/split", one | {"new_order_id": "O-1"}, 422, "invalid")
    refused("/O-1/returns", one | {"return_id": "R", "reason": "x"}, 422, "invalid")
    refused("/O-1/cancel-lines", {"lines": [], "reason": "x"}, 422, "invalid")
    early = {"promised_at": "2020-01-01T00:00:00Z", "reason": "x"}
    refused("/O-1/repromise", early, 422, "order.promised_before_placed")
    post(client, "/orders/O-1/ship", {})
    told = refused("/O-1/cancel", {"reason": "x"}, 409, "order.already_shipped")
    assert "return it" in told["detail"]
    assert_problem(client.get("/orders/O-9/lines"), 404)
    assert_problem(client.get("/orders/O-9/shipments"), 404)
    assert_problem(client.get("/orders/O-9/returns"), 404)
    assert_problem(client.get("/orders/O-9/history"), 404)
    assert_problem(client.get("/backorders", params={"sort": "colour"}), 422)
    assert_problem(client.get("/shipments", params={"status": "lost"}), 422)
    assert found(client.get("/returns"))["items"] == []
