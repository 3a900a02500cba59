"""Sites: what is said of them changes by events; what orders rely on holds all the time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from domain.catalogue import decode, encode
from domain.orders import AllocateOrder, OrderLine, OrderPlaced
from domain.places import Point
from domain.sites import (
    SITES,
    ChangeSite,
    CloseSite,
    OpenSite,
    ReopenSite,
    ServiceLevel,
    SiteChanged,
    SiteClosed,
    SiteOpened,
    SiteReopened,
)
from domain.time_windows import OpeningHours, OpenSpan
from domain.transport import VehicleRegistered
from domain.values import Event
from eventstore import StoredEvent
from ml.tables import SITE
from projections.engine import finish, fold_events
from projections.sites import SITES as SITE_LIST
from projections.table import Table
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BERLIN = Point(latitude=52.520008, longitude=13.404954)
LEVELS = (
    ServiceLevel(code="standard", cost_minor=500, carbon_g=900, cut_off=time(16)),
    ServiceLevel(code="express"),
)
HOURS = OpeningHours(
    zone="Europe/Berlin", spans=(OpenSpan(day="monday", opens="06:00", closes="22:00"),)
)

OPEN = OpenSite(
    site_id="S-1",
    name="Berlin",
    region="DE-BE",
    service_levels=LEVELS,
    daily_capacity=200,
    opened_at=NOON,
    kind="cross_dock",
    location=BERLIN,
    opening_hours=HOURS,
    capacity_weight_g=500_000_000,
    capacity_volume_cm3=2_000_000_000,
    docks=8,
)
REOPEN = ReopenSite(site_id="S-1", reopened_at=NOON)

opened = SiteOpened(**OPEN.model_dump())
plain = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=LEVELS,
    daily_capacity=None,
    opened_at=NOON,
)
closed = SiteClosed(site_id="S-1", reason="moved", closed_at=NOON)
reopened = SiteReopened(site_id="S-1", reopened_at=NOON)


def change(**fields: Any) -> ChangeSite:
    return ChangeSite(site_id="S-1", changed_at=NOON, **fields)


def changed(names: str, **values: Any) -> SiteChanged:
    """The site as opened, with other values."""
    said = {name: getattr(opened, name) for name in SiteOpened.model_fields if name != "opened_at"}
    return SiteChanged(**said | values, changed=names, changed_at=NOON)


# opening


def test_a_site_is_opened_with_all_that_is_known_of_it() -> None:
    given().when(OPEN).then(opened)


def test_a_warehouse_of_which_no_more_is_said_has_the_bytes_and_the_digest_it_always_had() -> None:
    said = b'{"site_id":"S-1","name":null,"region":null,"service_levels":[{"code":"standard",'
    level = b'"cost_minor":0,"carbon_g":0,"max_weight_g":null,"transit_s":null,"cut_off":null}'
    told = said + level + b'],"daily_capacity":null,"opened_at":null}'
    command = OpenSite(site_id="S-1", opened_at=None)
    assert command.model_dump_json().encode() == told
    [event] = given().when(command).events
    assert encode(event) == ("inventory.SiteOpened.v1", told)
    assert decode("inventory.SiteOpened.v1", told) == event
    assert SITES.fold([event]).kind == "warehouse"


# changing


def test_a_site_is_changed() -> None:
    given(opened).when(change(name="Mitte", docks=9)).then(
        changed("name, docks", name="Mitte", docks=9)
    )


def test_what_is_cleared_is_not_known_any_more() -> None:
    given(opened).when(change(clear=("location", "opening_hours"))).then(
        changed("location, opening_hours", location=None, opening_hours=None)
    )


def test_service_levels_are_replaced_as_a_whole() -> None:
    levels = (ServiceLevel(code="express", cost_minor=900),)
    given(opened).when(change(service_levels=levels)).then(
        changed("service_levels", service_levels=levels)
    )


def test_a_plain_warehouse_is_changed() -> None:
    [event] = given(plain).when(change(location=BERLIN)).events
    assert isinstance(event, SiteChanged)
    assert (event.kind, event.location, event.changed) == ("warehouse", BERLIN, "location")


@pytest.mark.parametrize("fields", [{}, {"name": "Berlin"}, {"service_levels": LEVELS}])
def test_a_change_of_nothing_is_no_event(fields: dict[str, Any]) -> None:
    given(opened).when(change(**fields)).then()


def test_only_an_open_site_is_changed() -> None:
    given().when(change(name="x")).refused("site.unknown", site_id="S-1")
    given(opened, closed).when(change(name="x")).refused("site.closed", site_id="S-1")


def test_no_order_is_given_a_level_that_is_not_offered_any_more() -> None:
    """Vehicles keep the levels that they are for: orders ask the site first."""
    vehicle = VehicleRegistered(
        vehicle_id="V-1",
        site_id="S-1",
        mode="van",
        service_levels=("express",),
        max_weight_g=None,
        daily_capacity=None,
        cost_minor=0,
        carbon_g=0,
        registered_at=NOON,
    )
    placed = OrderPlaced(
        order_id="O-1",
        customer_id="C-1",
        currency="EUR",
        lines=(OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=1),),
        lines_known=True,
        goods_minor=1,
        freight_minor=0,
        units=Decimal(1),
        weight_g=None,
        region=None,
        placed_at=NOON,
        promised_at=NOON,
    )
    allocate = AllocateOrder(
        order_id="O-1",
        site_id="S-1",
        service_level="express",
        vehicle_id="V-1",
        allocated_at=NOON,
    )
    fewer = changed("service_levels", service_levels=LEVELS[:1])
    again = changed("service_levels", service_levels=LEVELS)
    order = given(placed)
    assert order.reading(opened, vehicle).when(allocate).refusal is None
    order.reading(opened, fewer, vehicle).when(allocate).refused(
        "site.service_level_not_offered", service_level="express", offered="standard"
    )
    assert order.reading(opened, fewer, again, vehicle).when(allocate).refusal is None


# closing and opening again


def test_a_closed_site_is_opened_again_as_it_was() -> None:
    given(opened, closed).when(REOPEN).then(reopened)
    assert SITES.fold([opened, closed, reopened]) == SITES.fold([opened])
    given(opened, closed, reopened).when(
        CloseSite(site_id="S-1", reason="moved", closed_at=NOON)
    ).then(closed)


@pytest.mark.parametrize("history", [[opened], [opened, closed, reopened]])
def test_only_a_closed_site_is_opened_again(history: list[Event]) -> None:
    given(*history).when(REOPEN).refused("site.not_closed", site_id="S-1")


def test_a_site_that_there_is_not_is_not_opened_again() -> None:
    given().when(REOPEN).refused("site.unknown", site_id="S-1")


# what tables tell


def _folded(table: Table, *events: Event) -> dict[str, Any]:
    """The row of the site after its events, as they would stand in a log."""
    rows = []
    for position, event in enumerate(events, 1):
        topic, state = encode(event)
        own = UUID(int=1)
        at = (position, own, position, topic, state, UUID(int=position), own, NOON, own, None, "a")
        rows.append(StoredEvent(*at))
    [row] = finish(table, fold_events(table, rows)).iter_rows(named=True)
    found: dict[str, Any] = row
    return found


@pytest.mark.parametrize(("table", "described"), [(SITE, "opened"), (SITE_LIST, "described")])
def test_what_decisions_see_of_a_site_is_what_lists_show(table: Table, described: str) -> None:
    levels = (ServiceLevel(code="express", cost_minor=900),)
    fewer = changed("service_levels", service_levels=levels, region="DE-BB", daily_capacity=7)
    row = _folded(table, opened, fewer, closed)
    assert (row["region"], row["daily_capacity"], row["is_open"]) == ("DE-BB", 7, False)
    told = json.loads(row[described])["service_levels"]
    assert [level["code"] for level in told] == ["express"]
    assert _folded(table, opened, fewer, closed, reopened)["is_open"] is True
    assert _folded(table, plain)["is_open"] is True


def test_a_plain_site_is_a_warehouse_in_lists() -> None:
    assert _folded(SITE_LIST, plain)["kind"] == "warehouse"
    assert _folded(SITE_LIST, opened)["kind"] == "cross_dock"


# bad input


@pytest.mark.parametrize("command", [OpenSite, ChangeSite])
@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"site_id": "S 1"}, "site_id"),
        ({"kind": "shed"}, "kind"),
        ({"region": "Berlin, Mitte"}, "region"),
        ({"location": {"latitude": 91, "longitude": 0}}, "location.latitude"),
        ({"location": {"latitude": 0, "longitude": -200}}, "location.longitude"),
        ({"location": {"latitude": 0}}, "location.longitude"),
        ({"opening_hours": {"zone": "CET+1", "spans": []}}, "'CET+1' is no time zone of the IANA"),
        (
            {
                "opening_hours": {
                    "zone": "UTC",
                    "spans": [{"day": "friday", "opens": "20:00", "closes": "04:00"}],
                }
            },
            "over midnight write two spans",
        ),
        ({"service_levels": []}, "service_levels"),
        ({"service_levels": [{"code": "a"}, {"code": "a"}]}, "codes must be unique"),
        ({"daily_capacity": 0}, "daily_capacity"),
        ({"daily_capacity": -1}, "daily_capacity"),
        ({"capacity_weight_g": 0}, "capacity_weight_g"),
        ({"capacity_weight_g": 0.5}, "capacity_weight_g"),
        ({"capacity_volume_cm3": -1}, "capacity_volume_cm3"),
        ({"capacity_volume_cm3": 10**16}, "capacity_volume_cm3"),
        ({"docks": 0}, "docks"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_named(command: Any, fields: dict[str, Any], rule: str) -> None:
    moment = "opened_at" if command is OpenSite else "changed_at"
    assert rule in problems(command, **{"site_id": "S-1", moment: NOON} | fields)


def test_what_is_given_and_cleared_is_named() -> None:
    told = problems(ChangeSite, site_id="S-1", docks=3, clear=["docks"], changed_at=None)
    assert "clear: docks is given a value as well" in told
