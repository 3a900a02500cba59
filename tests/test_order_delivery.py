"""Where and when an order is wanted, changed until something of it has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.order_delivery import ChangeOrder, OrderChanged
from domain.order_state import ORDERS
from domain.places import Point
from domain.prohibitions import Prohibition
from domain.route_rules import RouteRuleSet
from domain.time_windows import TimeWindow
from domain.transport import VehicleRegistered
from domain.zones import Zone
from tests.order_world import HOUR, NOON, PROMISED, allocated, changed, ended, left, part, placed
from tests.serving import Served, accepted, assert_problem, get, order, post, serving_here
from tests.spec import given, problems

BERLIN = Point(latitude=52.520008, longitude=13.404954)
DISTRICT = Point(latitude=52.52, longitude=13.4)
WINDOW = TimeWindow(starts_at=PROMISED - 4 * HOUR, ends_at=PROMISED)
wanted = changed(placed, destination=DISTRICT, delivery_window=WINDOW, service_s=300)


def change(**fields: Any) -> ChangeOrder:
    return ChangeOrder(order_id="O-1", changed_at=NOON, **fields)


def was_changed(what: str, **fields: Any) -> OrderChanged:
    before: dict[str, Any] = {"destination": DISTRICT, "delivery_window": WINDOW, "service_s": 300}
    return OrderChanged(order_id="O-1", **(before | fields), changed=what, changed_at=NOON)


def test_an_order_goes_elsewhere_and_the_rest_stays() -> None:
    given(wanted).when(change(destination=BERLIN)).then(
        was_changed("destination", destination=BERLIN)
    )


def test_what_was_never_said_can_be_said_later_and_taken_back() -> None:
    later = TimeWindow(starts_at=WINDOW.starts_at + HOUR, ends_at=WINDOW.ends_at + HOUR)
    given(placed, allocated).when(change(delivery_window=later, service_s=60)).then(
        was_changed(
            "delivery_window, service_s", destination=None, delivery_window=later, service_s=60
        )
    )
    cleared = was_changed(
        "destination, delivery_window, service_s",
        destination=None,
        delivery_window=None,
        service_s=None,
    )
    given(wanted).when(change(clear=("destination", "delivery_window", "service_s"))).then(cleared)
    assert ORDERS.fold([wanted, cleared]).destination is None
    assert ORDERS.fold([wanted, was_changed("service_s", service_s=9)]).service_s == 9


def test_what_is_so_already_is_no_event() -> None:
    given(wanted).when(change(destination=DISTRICT, service_s=300)).then()
    given(placed).when(change(clear=("destination",))).then()
    given(placed).when(change()).then()


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "order.unknown"),
        ([placed, allocated, left("P-1", part(1, 6))], "order.already_partly_shipped"),
        ([placed, allocated, ended(1)], "order.already_shipped"),
    ],
)
def test_what_has_left_goes_where_it_was_sent(history: list[Any], code: str) -> None:
    given(*history).when(change(destination=BERLIN)).refused(code)


def test_a_persons_door_is_told_by_its_district() -> None:
    of_person = changed(wanted, person="00000000-0000-0000-0000-000000000001")
    given(of_person).when(change(destination=BERLIN)).refused(
        "order.location_too_exact", field="destination", most="2 decimal places"
    )
    paris = Point(latitude=48.86, longitude=2.35)
    given(of_person).when(change(destination=paris)).then(
        was_changed("destination", destination=paris)
    )


VAN = VehicleRegistered(
    vehicle_id="V-1",
    site_id="S-1",
    mode="van",
    service_levels=("standard",),
    max_weight_g=None,
    daily_capacity=None,
    cost_minor=0,
    carbon_g=0,
    registered_at=None,
    fuel="diesel",
)
RULE = RouteRuleSet(
    rule_id="LEZ",
    name="Low emission zone",
    zone=Zone(name="Berlin", centre=BERLIN, radius_m=500),
    forbids=Prohibition(fuels=("diesel",)),
    hours=None,
    valid_from=NOON - HOUR,
    valid_until=None,
    source="35. BImSchV",
    source_url=None,
    exempt_vehicles=(),
    set_by="ana",
    set_at=NOON,
)


def test_its_vehicle_may_go_there() -> None:
    there = change(destination=BERLIN)
    given(placed, allocated).reading(VAN, RULE).when(there).refused(
        "route_rule.broken", vehicle_id="V-1", rule_id="LEZ"
    )
    given(placed, changed(allocated, vehicle_id=None)).reading(RULE).when(there).then(
        was_changed("destination", destination=BERLIN, delivery_window=None, service_s=None)
    )
    assert given(placed, allocated).reading(VAN).when(there).refusal is None
    # What does not move it asks no rule.
    at_berlin = changed(wanted, destination=BERLIN)
    stays = given(at_berlin, allocated).reading(VAN, RULE).when(change(service_s=1))
    assert stays.refusal is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"service_s": -1}, "service_s"),
        ({"destination": {"latitude": 91, "longitude": 0}}, "destination.latitude"),
        ({"clear": ("region",)}, "clear.0"),
        ({"service_s": 5, "clear": ("service_s",)}, "clear: service_s is given a value as well"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], told: str) -> None:
    assert told in problems(ChangeOrder, order_id="O-1", changed_at=None, **fields)


# over HTTP


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(organisation_id=uuid4()) as client:
        accepted(client.post("/sites", json={"site_id": "S-1"}))
        yield client


def test_a_changed_order_is_told_as_it_is_now(client: httpx.Client) -> None:
    body = order("O-1") | wanted.model_dump(
        mode="json", include={"destination", "delivery_window", "service_s"}
    )
    body.pop("recipient", None)
    post(client, "/orders", body)
    path = "/orders/O-1/change"
    moved = {"destination": {"latitude": 48.8566, "longitude": 2.3522}, "service_s": 60}
    told = post(client, path, moved | {"clear": ["delivery_window"]})
    now = get(client, "/orders/O-1", min_position=told["position"])
    names = ("latitude", "longitude", "deliver_from", "deliver_until", "service_s")
    assert [now[name] for name in names] == [48.8566, 2.3522, None, None, 60]
    assert now["version"] == told["version"] == 2
    [listed] = get(client, "/orders", sort="deliver_until")["items"]
    assert [listed[name] for name in names] == [now[name] for name in names]
    again = post(client, path, moved)
    assert (again["version"], again["position"]) == (2, told["position"])
    *_, last = get(client, "/orders/O-1/history")["items"]
    assert last["sentence"] == ("Order O-1 was changed: destination, delivery_window, service_s")
    timeline = get(client, "/orders/O-1/timeline")["items"]
    assert [one["what"] for one in timeline] == ["OrderPlaced", "OrderChanged"]
    window = wanted.model_dump(mode="json", include={"delivery_window"})
    told = post(client, path, window | {"clear": ["destination", "service_s"]})
    now = get(client, "/orders/O-1", min_position=told["position"])
    assert [now[name] for name in names] == [
        *(None, None, WINDOW.starts_at.isoformat().replace("+00:00", "Z")),
        *(WINDOW.ends_at.isoformat().replace("+00:00", "Z"), None),
    ]


def test_bad_changes_are_answered_with_what_is_wrong(client: httpx.Client) -> None:
    post(client, "/orders", order("O-1"))
    exact = {"destination": BERLIN.model_dump()}
    wrong = client.post("/orders/O-1/change", json={"region": "DE-BE"})
    assert "region" in assert_problem(wrong, 422, "invalid")["detail"]
    assert_problem(client.post("/orders/O-9/change", json=exact), 404, "order.unknown")
    person = {"person_id": "P-1", "name": "Ada Example", "city": "Berlin"}
    post(client, "/orders", order("O-2", recipient=person))
    answer = client.post("/orders/O-2/change", json=exact)
    assert "destination" in assert_problem(answer, 422, "order.location_too_exact")["detail"]
    post(client, "/orders/O-1/allocate", {"site_id": "S-1"})
    post(client, "/orders/O-1/ship", {})
    answer = client.post("/orders/O-1/change", json=exact)
    assert_problem(answer, 409, "order.already_shipped")
