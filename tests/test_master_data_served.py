"""Clients, assignments and route rules through the front door of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.access import Role
from tests.serving import (
    Served,
    accepted,
    assert_problem,
    everything,
    found,
    get,
    post,
    serving_here,
)


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """Somebody of an organisation with two sites and a truck."""
    with served.client(organisation_id=uuid4()) as client:
        for site_id in ("S-1", "S-2"):
            post(client, "/sites", {"site_id": site_id})
        truck = {
            "vehicle_id": "V-1",
            "site_id": "S-1",
            "mode": "truck",
            "service_levels": ["standard"],
            "vehicle_class": "N2",
            "fuel": "diesel",
            "emission_class": "euro5",
        }
        post(client, "/vehicles", truck)
        yield client


BAKERY: dict[str, Any] = {
    "client_id": "C-1",
    "name": "Bakery Chain North GmbH",
    "currency": "EUR",
    "default_site_id": "S-1",
    "location": {"latitude": 53.5511, "longitude": 9.9937},
    "opening_hours": {
        "zone": "Europe/Berlin",
        "spans": [{"day": "monday", "opens": "05:00", "closes": "18:00"}],
    },
    "payment_days": 30,
    "credit_limit_minor": 2_500_000,
    "priority": "high",
    "promise_hours": 24,
}


def test_a_client_over_http(client: httpx.Client) -> None:
    answer = client.post("/clients", json=BAKERY)
    assert answer.status_code == 201
    assert accepted(answer)["stream"] == "clients/C-1"
    shown = client.get("/clients/C-1", params={"min_position": accepted(answer)["position"]})
    row = found(shown)
    assert row | BAKERY == row
    assert (row["delivery_hours"], row["retired"], row["version"]) == (None, False, 1)
    assert shown.headers["etag"] == '"1"'
    change = {"name": "North & Sons 100 %", "clear": ["credit_limit_minor", "location"]}
    stale = client.post("/clients/C-1/change", json=change, headers={"If-Match": '"9"'})
    assert_problem(stale, 412)
    sent = post(client, "/clients/C-1/change", change)
    row = get(client, "/clients/C-1", min_position=sent["position"])
    assert (row["name"], row["credit_limit_minor"], row["location"]) == (change["name"], None, None)
    assert (row["payment_days"], row["default_site_id"]) == (30, "S-1")
    then = get(client, "/clients/C-1", as_of=sent["position"] - 1)
    assert (then["name"], then["credit_limit_minor"]) == (BAKERY["name"], 2_500_000)
    post(client, "/clients/C-1/retire", {"reason": "contract ended"})
    assert_problem(client.post("/clients/C-1/change", json=change), 409, "client.retired")
    sent = post(client, "/clients/C-1/reinstate", {"reason": "new contract"})
    row = get(client, "/clients/C-1", min_position=sent["position"])
    assert (row["retired"], row["retired_at"], row["retire_reason"]) == (False, None, None)
    entries = get(client, "/clients/C-1/history", limit=3)
    assert [entry["sentence"] for entry in entries["items"]] == [
        "Client C-1 was registered: Bakery Chain North GmbH",
        "Client C-1 was changed: name, location, credit_limit_minor",
        "Client C-1 was retired: contract ended",
    ]
    rest = get(client, "/clients/C-1/history", cursor=entries["next_cursor"])["items"]
    assert [(entry["what"], entry["actor"]) for entry in rest] == [("ClientReinstated", "tester")]


def test_clients_are_listed_filtered_sorted_and_searched(client: httpx.Client) -> None:
    sent = {"position": 0}
    for n, (currency, priority) in enumerate(
        [("EUR", "high"), ("SEK", "standard"), ("EUR", "low"), ("EUR", "high")]
    ):
        body = BAKERY | {
            "client_id": f"C-{n}",
            "name": f"Shop {'%_' if n == 2 else 'ab'} {n}",
            "currency": currency,
            "priority": priority,
            "credit_limit_minor": 1000 * n,
            "default_site_id": "S-2" if n == 3 else None,
        }
        sent = post(client, "/clients", body)
    sent = post(client, "/clients/C-0/retire", {"reason": "x"})
    get(client, "/clients", min_position=sent["position"])

    def ids(**query: Any) -> list[str]:
        return [row["client_id"] for row in everything(client, "/clients", limit=2, **query)]

    assert ids() == ["C-0", "C-1", "C-2", "C-3"]
    assert ids(sort="-credit_limit_minor") == ["C-3", "C-2", "C-1", "C-0"]
    assert ids(sort="priority,client_id") == ["C-0", "C-3", "C-2", "C-1"]
    assert ids(retired=False, currency="EUR") == ["C-2", "C-3"]
    assert ids(priority="high") == ["C-0", "C-3"]
    assert ids(default_site_id="S-2") == ["C-3"]
    assert ids(search="SHOP AB") == ["C-0", "C-1", "C-3"]
    assert ids(search="%_") == ["C-2"]
    some = get(client, "/clients", fields="client_id,priority", limit=1)["items"]
    assert some == [{"client_id": "C-0", "priority": "high"}]
    assert_problem(client.get("/clients?sort=iban"), 422, "bad-sort")
    assert_problem(client.get("/clients?priority=vip"), 422, "invalid")
    assert_problem(client.get("/clients?currency=EURO"), 422, "invalid")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"credit_limit_minor": -1}, "body.credit_limit_minor"),
        ({"location": {"latitude": 91, "longitude": 0}}, "body.location.latitude"),
        ({"currency": "EURO"}, "body.currency"),
        ({"email": "ana@example.org"}, "body.email"),
    ],
)
def test_a_wrong_client_is_told_field_value_and_rule(
    client: httpx.Client, fields: dict[str, Any], field: str
) -> None:
    body = assert_problem(client.post("/clients", json=BAKERY | fields), 422, "invalid")
    [error] = body["errors"]
    assert error["field"] == field
    assert error["rule"]
    assert_problem(client.get("/clients/C-1"), 404, "not-found")
    assert_problem(client.get("/clients/C-1/history"), 404, "not-found")


def test_a_client_of_an_unknown_site_is_refused(client: httpx.Client) -> None:
    wrong = client.post("/clients", json=BAKERY | {"default_site_id": "S-9"})
    assert assert_problem(wrong, 404, "site.unknown")["context"] == {
        "site_id": "S-9",
        "field": "default_site_id",
    }


SHIFT: dict[str, Any] = {
    "vehicle_id": "V-1",
    "assignment_id": "A-1",
    "site_id": "S-2",
    "window": {"starts_at": "2026-03-02T22:00:00Z", "ends_at": "2026-03-03T06:00:00Z"},
    "driver_id": "D-17",
    "break_window": {"starts_at": "2026-03-03T02:00:00Z", "ends_at": "2026-03-03T02:45:00Z"},
    "assigned_at": "2026-03-01T12:00:00Z",
}


def shift(name: str, starts_at: str, ends_at: str) -> dict[str, Any]:
    window = {"starts_at": f"2026-03-{starts_at}:00Z", "ends_at": f"2026-03-{ends_at}:00Z"}
    return SHIFT | {"assignment_id": name, "window": window, "break_window": None}


def test_an_assignment_over_http(client: httpx.Client) -> None:
    answer = client.post("/assignments", json=SHIFT)
    assert answer.status_code == 201
    assert accepted(answer)["stream"] == "assignments/V-1"
    here = "/assignments/V-1/A-1"
    row = get(client, here, min_position=accepted(answer)["position"])
    assert (row["starts_at"], row["ends_at"]) == tuple(SHIFT["window"].values())
    assert (row["break_starts_at"], row["driver_id"]) == ("2026-03-03T02:00:00Z", "D-17")
    assert (row["status"], row["site_id"]) == ("assigned", "S-2")
    overlapping = client.post("/assignments", json=shift("A-2", "03T05:00", "03T09:00"))
    assert_problem(overlapping, 409, "assignment.overlaps")
    sent = post(client, f"{here}/change", {"clear": ["driver_id"]})
    assert get(client, here, min_position=sent["position"])["driver_id"] is None
    late = {"reason": "breakdown", "ended_at": "2026-03-03T01:00:00Z"}
    too_late = client.post(f"{here}/cancel", json={"reason": "x"})
    assert_problem(too_late, 409, "assignment.already_started")
    sent = post(client, f"{here}/end", late)
    row = get(client, here, min_position=sent["position"])
    assert (row["status"], row["ends_at"], row["reason"]) == (
        "ended",
        late["ended_at"],
        "breakdown",
    )
    assert (row["break_starts_at"], row["break_ends_at"]) == (None, None)
    assert_problem(client.post(f"{here}/end", json=late), 409, "assignment.already_ended")
    post(client, "/assignments", shift("A-2", "03T05:00", "03T09:00"))
    before = {"reason": "no work", "cancelled_at": "2026-03-03T04:00:00Z"}
    told = post(client, "/assignments/V-1/A-2/cancel", before)
    assert (told["stream"], told["id"]) == ("assignments/V-1", "A-2")
    entries = get(client, "/assignments/V-1/history")["items"]
    assert [entry["what"] for entry in entries] == [
        "VehicleAssigned",
        "AssignmentChanged",
        "AssignmentEnded",
        "VehicleAssigned",
        "AssignmentCancelled",
    ]
    for path in ("/assignments/V-1/A-9", "/assignments/V-9/A-1", "/assignments/V-9/history"):
        assert_problem(client.get(path), 404, "not-found")


def test_assignments_are_listed_by_vehicle_site_and_day(client: httpx.Client) -> None:
    post(client, "/assignments", SHIFT)
    post(client, "/assignments", shift("A-2", "03T06:00", "04T00:00") | {"site_id": "S-1"})
    post(client, "/assignments", shift("A-3", "04T00:00", "04T08:00") | {"driver_id": "D-18"})
    cancelled = {"reason": "x", "cancelled_at": "2026-03-01T12:00:00Z"}
    sent = post(client, "/assignments/V-1/A-3/cancel", cancelled)
    get(client, "/assignments", min_position=sent["position"])

    def ids(**query: Any) -> list[str]:
        rows = everything(client, "/assignments", limit=2, **query)
        return [row["assignment_id"] for row in rows]

    assert ids() == ["A-1", "A-2", "A-3"]
    assert ids(sort="-ends_at") == ["A-3", "A-2", "A-1"]
    assert ids(day="2026-03-02") == ["A-1"]
    assert ids(day="2026-03-03") == ["A-1", "A-2"]
    assert ids(day="2026-03-04") == ["A-3"]
    assert ids(site_id="S-1") == ["A-2"]
    assert ids(vehicle_id="V-9") == []
    assert ids(driver_id="D-17") == ["A-1", "A-2"]
    assert ids(status="cancelled") == ["A-3"]
    assert ids(search="a-2") == ["A-2"]
    assert ids(search="d-1") == ["A-1", "A-2", "A-3"]
    assert ids(search="18") == ["A-3"]
    assert ids(search="%") == []
    assert_problem(client.get("/assignments?day=2026-02-30"), 422, "invalid")
    assert_problem(client.get("/assignments?status=lost"), 422, "invalid")
    named = client.post("/assignments", json=SHIFT | {"driver_id": "Ana.Maria"})
    [error] = assert_problem(named, 422, "invalid")["errors"]
    assert error["field"] == "body.driver_id"
    backwards = client.post("/assignments", json=shift("A-4", "05T08:00", "05T06:00"))
    assert_problem(backwards, 422, "invalid")


ZONE: dict[str, Any] = {
    "rule_id": "LEZ",
    "name": "Low emission zone",
    "zone": {
        "name": "Old Town",
        "polygon": [
            {"latitude": 52.4, "longitude": 13.3},
            {"latitude": 52.4, "longitude": 13.4},
            {"latitude": 52.5, "longitude": 13.4},
            {"latitude": 52.5, "longitude": 13.3},
        ],
    },
    "forbids": {"emission_below": "euro6", "fuels": ["diesel"]},
    "valid_from": "2026-01-01T00:00:00Z",
    "source": "City ordinance 7/2025",
    "source_url": "https://example.org/ordinance",
}
TUNNEL: dict[str, Any] = {
    "rule_id": "TUNNEL-E",
    "name": "Harbour tunnel",
    "zone": {
        "name": "Harbour tunnel",
        "centre": {"latitude": 53.53, "longitude": 9.94},
        "radius_m": 1500,
    },
    "forbids": {"tunnel_category": "E"},
    "hours": {
        "zone": "Europe/Berlin",
        "spans": [{"day": "monday", "opens": "05:00", "closes": "23:00"}],
    },
    "valid_from": "2026-01-01T00:00:00Z",
    "valid_until": "2027-01-01T00:00:00Z",
    "source": "ADR 8.6.4",
}
IN_TOWN = {"latitude": 52.45, "longitude": 13.35}
IN_TUNNEL = {"latitude": 53.535, "longitude": 9.945}
THINNER = {
    "un_number": "UN1263",
    "hazard_class": "3",
    "packing_group": "II",
    "tunnel_code": "D/E",
}


def test_a_route_rule_over_http(client: httpx.Client) -> None:
    answer = client.post("/route-rules", json=ZONE)
    assert answer.status_code == 201
    assert accepted(answer)["stream"] == "route_rules/own"
    sent = post(client, "/route-rules", TUNNEL)
    assert sent["id"] == "TUNNEL-E"  # as it is asked for: all rules are one stream
    row = get(client, "/route-rules/TUNNEL-E", min_position=sent["position"])
    assert (row["source"], row["hours"]) == (TUNNEL["source"], TUNNEL["hours"])
    assert row["zone"]["centre"] == TUNNEL["zone"]["centre"]
    assert (row["valid_until"], row["set_by"]) == (TUNNEL["valid_until"], "tester")
    change = {"always": True, "unlimited": True}
    sent = post(client, "/route-rules/TUNNEL-E/change", change)
    row = get(client, "/route-rules/TUNNEL-E", min_position=sent["position"])
    assert (row["hours"], row["valid_until"]) == (None, None)
    sent = post(client, "/route-rules/LEZ/lift", {"reason": "repealed"})
    query = {"min_position": sent["position"]}
    row = get(client, "/route-rules/LEZ", **query)
    assert (row["lifted"], row["lift_reason"], row["lifted_by"]) == (True, "repealed", "tester")

    def ids(**asked: Any) -> list[str]:
        return [rule["rule_id"] for rule in get(client, "/route-rules", **asked)["items"]]

    assert ids() == ["LEZ", "TUNNEL-E"]
    assert ids(lifted=False) == ["TUNNEL-E"]
    assert ids(valid_at="2026-06-01T00:00:00Z") == ["TUNNEL-E"]
    assert ids(valid_at="2025-06-01T00:00:00Z") == []
    assert ids(search="old town") == ["LEZ"]
    assert ids(search="adr", sort="-name") == ["TUNNEL-E"]
    assert_problem(client.post("/route-rules/LEZ/lift", json={"reason": "x"}), 404)
    sent = post(client, "/route-rules", ZONE)
    assert get(client, "/route-rules/LEZ", min_position=sent["position"])["lifted"] is False
    assert_problem(client.post("/route-rules", json=ZONE), 409, "route_rule.already_set")
    entries = get(client, "/route-rules/LEZ/history", limit=2)
    assert [entry["what"] for entry in entries["items"]] == ["RouteRuleSet", "RouteRuleLifted"]
    rest = get(client, "/route-rules/LEZ/history", cursor=entries["next_cursor"], limit=2)
    assert [entry["version"] for entry in rest["items"]] == [5]
    assert rest["next_cursor"] is None
    for path in ("/route-rules/NONE", "/route-rules/NONE/history"):
        assert_problem(client.get(path), 404, "not-found")


def test_a_wrong_rule_is_told_field_and_rule(client: httpx.Client) -> None:
    empty = client.post("/route-rules", json=ZONE | {"forbids": {}})
    [error] = assert_problem(empty, 422, "invalid")["errors"]
    assert error["field"] == "body.forbids"
    corners = ZONE["zone"]["polygon"]
    bow_tie = [corners[0], corners[2], corners[1], corners[3]]
    crossed = client.post("/route-rules", json=ZONE | {"zone": {"name": "B", "polygon": bow_tie}})
    assert_problem(crossed, 422, "route_rule.zone_crosses_itself")
    backwards = client.post("/route-rules", json=TUNNEL | {"valid_until": "2025-01-01T00:00:00Z"})
    assert_problem(backwards, 422, "invalid")


def test_a_route_is_checked_against_the_rules(client: httpx.Client) -> None:
    post(client, "/route-rules", ZONE)
    sent = post(client, "/route-rules", TUNNEL)
    noon = "2026-03-02T12:00:00Z"

    def check(**fields: Any) -> Any:
        body = {"vehicle_id": "V-1", "points": [IN_TOWN, IN_TUNNEL], "at": noon} | fields
        query = {"min_position": sent["position"]}
        return found(client.post("/route-rules/check", json=body, params=query))

    verdict = check(goods={"hazards": [THINNER]})
    assert (verdict["allowed"], verdict["rules"], verdict["at"]) == (False, 2, noon)
    assert [(one["rule_id"], one["zone"], one["source"]) for one in verdict["broken"]] == [
        ("LEZ", "Old Town", "City ordinance 7/2025"),
        ("TUNNEL-E", "Harbour tunnel", "ADR 8.6.4"),
    ]
    assert "emission class euro5 is below euro6" in verdict["broken"][0]["sentence"]
    assert "goods of tunnel code D/E" in verdict["broken"][1]["sentence"]
    assert check(points=[IN_TUNNEL])["allowed"] is True
    assert check(points=[IN_TUNNEL], goods={"hazards": [THINNER]}, at="2026-03-03T12:00:00Z")[
        "allowed"
    ]
    now = check(at=None, points=[IN_TOWN])
    assert (now["allowed"], now["at"] > noon) == (False, True)
    unknown = client.post("/route-rules/check", json={"vehicle_id": "V-9", "points": [IN_TOWN]})
    assert_problem(unknown, 404, "not-found")
    for wrong in (
        {"vehicle_id": "V-1", "points": []},
        {"vehicle_id": "V-1", "points": [{"latitude": 99, "longitude": 0}]},
        {"vehicle_id": "V-1", "points": [IN_TOWN], "goods": {"hazards": [{"un_number": "1263"}]}},
        {"vehicle_id": "V-1", "points": [IN_TOWN], "speed": 80},
    ):
        assert_problem(client.post("/route-rules/check", json=wrong), 422, "invalid")


def test_who_reads_may_ask_and_not_change(served: Served, client: httpx.Client) -> None:
    with served.client(Role.VIEWER) as viewer:
        for path in ("/clients", "/assignments", "/route-rules"):
            assert get(viewer, path)["items"] == []
        for path, body in (
            ("/clients", BAKERY),
            ("/assignments", SHIFT),
            ("/route-rules", ZONE),
            ("/vehicles/V-1/change", {"max_weight_g": 1}),
        ):
            assert_problem(viewer.post(path, json=body), 403, "forbidden")
