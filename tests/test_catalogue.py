"""The catalogues are complete: bytes and back, sentences, handlers, a spec for every refusal."""

from __future__ import annotations

import json
import re
import string
import types
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import domain
from commands import COMMANDS, HANDLERS
from domain import (
    alert_rules,
    alerts,
    api_keys,
    assignments,
    catalogue,
    clients,
    decisions,
    forecasts,
    inventory,
    metrics,
    models,
    notifications,
    order_changes,
    order_delivery,
    order_events,
    orders,
    organisations,
    people,
    policies,
    products,
    reservations,
    returns,
    reviews,
    route_rules,
    routes,
    schedules,
    shipments,
    simulations,
    sites,
    stock_keeping,
    tariffs,
    tasks,
    tour_bookings,
    tour_plans,
    tours,
    transport,
    webhooks,
    work,
)
from domain.access import Role
from domain.decisions import Stage, Weights
from domain.hazards import Hazard
from domain.orders import OrderLine, Status
from domain.places import Point
from domain.prohibitions import Prohibition
from domain.routing import Emission, Rates
from domain.sites import ServiceLevel
from domain.time_windows import WEEKDAYS, OpeningHours, OpenSpan, TimeWindow
from domain.values import Command, Event
from domain.zones import Zone

ROOT = Path(domain.__file__).parent.parent
AREAS = (
    *(orders, sites, inventory, decisions, reviews, models, policies, transport, people, tasks),
    stock_keeping,
    *(organisations, api_keys, webhooks, work, products, clients, assignments, route_rules),
    routes,
    *(tours, tour_plans, tour_bookings),
    *(tariffs, forecasts, simulations, metrics, schedules, alerts),
    *(alert_rules, notifications),
    *(order_events, order_changes, order_delivery, reservations, shipments, returns),
)
EVENTS = list(catalogue.TOPICS)
ASKED_BY_AUDITORS = {
    work.RequestReplay,
    work.RequestBacktest,
    work.RequestBundle,
    tasks.CancelOwnTask,
    tasks.RetryTask,
}
OF_ONESELF = {
    organisations.LeaveOrganisation,
    organisations.AcceptInvitation,
    alerts.ReadAlert,
    notifications.ReadAllAlerts,
    notifications.SubscribeToAlerts,
    notifications.UnsubscribeFromAlerts,
}

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
# Of whole strings: a regex is drawn character by character, which is ten times as slow.
_alphanumeric = string.ascii_letters + string.digits
_ids = st.builds(
    "{}{}".format, st.sampled_from(_alphanumeric), st.text(f"{_alphanumeric}._-", max_size=63)
)
_hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
_counts = st.integers(0, 10**9)
_points = st.builds(Point, latitude=st.floats(-90, 90), longitude=st.floats(-180, 180))
_european = st.builds(Point, latitude=st.floats(36, 70), longitude=st.floats(-10, 40))
_scalars: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    str: _text,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    date: st.dates(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes(timezones=st.just(UTC)),
    Decimal: st.decimals(-(10**12), 10**12, places=3),
    OrderLine: st.builds(
        OrderLine,
        line_no=st.integers(1, 10_000),
        sku=_ids,
        quantity=st.decimals("0.001", 10**6, places=3),
        unit_price_minor=_counts,
        freight_minor=_counts,
        weight_g=st.none() | _counts,
        site_id=st.none() | _ids,
    ),
    ServiceLevel: st.builds(
        ServiceLevel,
        code=_ids,
        cost_minor=_counts,
        carbon_g=_counts,
        max_weight_g=st.none() | st.integers(1, 10**9),
        transit_s=st.none() | st.integers(1, 10**9),
        cut_off=st.none() | st.builds(time, st.integers(0, 23), st.integers(0, 59)),
    ),
    Rates: st.builds(
        Rates,
        fixed_minor=_counts,
        per_km_minor=_counts,
        per_hour_minor=_counts,
        per_stop_minor=_counts,
        toll_per_km_minor=_counts,
    ),
    Emission: st.builds(Emission, empty_mg_per_km=_counts, full_mg_per_km=_counts),
    Weights: st.builds(
        Weights,
        cost=st.floats(0, 1000),
        risk_minor=_counts,
        carbon_minor_per_kg=_counts,
    ),
    order_events.Proof: st.builds(
        order_events.Proof,
        kind=st.sampled_from(["signature", "photo", "code"]),
        sha256=_hashes,
        reference=st.none() | _ids,
        location=st.none()
        | st.builds(Point, latitude=st.floats(-90, 90), longitude=st.floats(-180, 180)),
    ),
    orders.LineSite: st.builds(orders.LineSite, line_no=_counts, site_id=_ids),
    Point: _points,
    OpeningHours: st.builds(
        OpeningHours,
        zone=st.sampled_from(["Europe/Berlin", "UTC"]),
        spans=st.lists(
            st.builds(
                OpenSpan,
                day=st.sampled_from(WEEKDAYS),
                opens=st.sampled_from(["00:00", "08:30"]),
                closes=st.sampled_from(["12:00", "24:00"]),
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda span: span.day,
        ).map(tuple),
    ),
    TimeWindow: st.builds(
        lambda starts_at, length: TimeWindow(starts_at=starts_at, ends_at=starts_at + length),
        st.datetimes(max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        st.timedeltas(timedelta(seconds=1), timedelta(days=9)),
    ),
    Hazard: st.builds(
        Hazard,
        un_number=st.from_regex(r"\AUN[0-9]{4}\Z"),
        hazard_class=st.sampled_from(["3", "8", "9"]),
        packing_group=st.sampled_from([None, "I", "III"]),
        tunnel_code=st.sampled_from([None, "B", "D/E"]),
    ),
    Zone: st.builds(Zone, name=_ids, centre=_points, radius_m=st.integers(1, 10**6))
    | st.builds(
        Zone,
        name=_ids,
        polygon=st.lists(_european, min_size=3, max_size=6, unique=True).map(tuple),
    ),
    Prohibition: st.builds(
        Prohibition,
        vehicle_classes=st.sampled_from([("N2",), ("N2", "N3")]),
        fuels=st.sampled_from([(), ("diesel",)]),
        emission_below=st.sampled_from([None, "euro4"]),
        gross_weight_above_g=st.none() | st.integers(0, 10**9),
        hazard_classes=st.sampled_from([(), ("1.4", "3")]),
        tunnel_category=st.sampled_from([None, "C"]),
    ),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if annotation in _scalars:
        return _scalars[annotation]
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of([values(part) for part in parts])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=3)
    if annotation == models.Hash:
        return _hashes
    if annotation == people.Pseudonym:
        return st.uuids().map(str)
    if annotation == people.Sealed:
        return st.text(f"{_alphanumeric}_-", min_size=40, max_size=40).map("p1.{}".format)
    if hasattr(annotation, "__metadata__"):
        return values(annotation.__origin__)
    assert issubclass(annotation, BaseModel), annotation
    fields = {name: values(info.annotation) for name, info in annotation.model_fields.items()}
    return st.builds(annotation, **fields)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
def test_an_event_survives_its_bytes(kind: type[Event]) -> None:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values(kind))
    def survives(event: Event) -> None:
        topic, state = catalogue.encode(event)
        again = catalogue.decode(topic, state)
        assert again == event
        assert catalogue.encode(again) == (topic, state)
        assert catalogue.present(topic, state) == (topic, state)
        assert catalogue.as_json(topic, state) == json.loads(state)

    survives()


def test_an_unknown_topic_is_no_event() -> None:
    with pytest.raises(KeyError):
        catalogue.decode("orders.OrderForgotten.v1", b"{}")
    with pytest.raises(KeyError):
        catalogue.present("orders.OrderForgotten.v1", b"{}")


def test_somebody_elses_bytes_are_not_looked_at() -> None:
    assert catalogue.type_of("app:Account.Opened") is None
    assert catalogue.as_json("app:Account.Opened", b"\x80\x04") is None
    with pytest.raises(KeyError):
        catalogue.decode("app:Account.Opened", b"\x80\x04")


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
def test_an_event_has_a_sentence_of_its_own_fields(kind: type[Event]) -> None:
    parts = [name for _, name, _, _ in string.Formatter().parse(catalogue.SENTENCES[kind])]
    named = {name for name in parts if name is not None}
    assert named
    assert named <= kind.model_fields.keys()


def test_every_event_of_an_area_is_in_the_catalogue() -> None:
    defined = {
        kind
        for area in AREAS
        for kind in vars(area).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert defined == set(catalogue.TOPICS) == set(catalogue.SENTENCES)


def test_every_command_has_a_handler_and_somebody_who_may_send_it() -> None:
    defined = {
        kind
        for area in AREAS
        for kind in vars(area).values()
        if isinstance(kind, type) and issubclass(kind, Command) and kind is not Command
    }
    assert defined == set(HANDLERS) == set(COMMANDS.values())
    for command, handler in HANDLERS.items():
        assert handler.command is command
        assert handler.roles
        assert handler.roles <= set(Role)
        # Whoever is a member may leave; whoever is none becomes one by a code.
        assert (Role.VIEWER in handler.roles) is (command in OF_ONESELF)
        # Auditors change nothing; what they may ask for is to have the log looked at again.
        asked = ASKED_BY_AUDITORS | OF_ONESELF
        assert (Role.AUDITOR in handler.roles) is (command in asked)


def test_every_refusal_has_a_specification() -> None:
    codes = {
        code
        for folder in ("domain", "commands")
        for file in (ROOT / folder).glob("*.py")
        for code in re.findall(r'Refused\(\s*"([a-z_.]+)"', file.read_text())
    }
    assert "order.not_allocated" in codes
    told = (Status.PARTLY_SHIPPED, Status.SHIPPED, Status.DELIVERED, Status.CANCELLED)
    codes |= {f"order.already_{status.value}" for status in told}
    codes |= {
        f"decision.not_{stage.value}"
        for stage in (Stage.REQUESTED, Stage.REFERRED, Stage.MADE, Stage.CONTESTED)
    }
    specified = {
        code
        for area in (
            "orders",
            "reservations",
            "shipments",
            "order_changes",
            "order_fields",
            "inventory",
            "decisions",
            "reviews",
            "models",
            "policies",
            "business_metrics",
            "products",
            "sites",
            "stock_keeping",
            "transport",
            "people",
            "tasks",
            "organisations",
            "webhooks",
            "clients",
            "assignments",
            "route_rules",
            "tours",
            "tour_bookings",
            "forecasts",
            "simulations",
            "schedules",
            "alerts",
            "notifications",
        )
        for code in re.findall(
            r'"([a-z_]+\.[a-z_]+)"', Path(__file__).with_name(f"test_{area}.py").read_text()
        )
    }
    assert codes - specified == set()
