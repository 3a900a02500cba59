"""Clients: accounts that are taken in, changed, retired and reinstated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.clients import (
    CLIENTS,
    ChangeClient,
    ClientChanged,
    ClientRegistered,
    ClientReinstated,
    ClientRetired,
    RegisterClient,
    ReinstateClient,
    RetireClient,
    must_be_active,
)
from domain.errors import Refused
from domain.places import Point
from domain.sites import ServiceLevel, SiteClosed, SiteOpened
from domain.time_windows import OpeningHours, OpenSpan
from domain.values import Command, Event
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HAMBURG = Point(latitude=53.5511, longitude=9.9937)
MORNINGS = OpeningHours(
    zone="Europe/Berlin", spans=(OpenSpan(day="monday", opens="05:00", closes="09:00"),)
)

REGISTER = RegisterClient(
    client_id="C-1",
    name="Bakery Chain North GmbH",
    currency="EUR",
    default_site_id="S-1",
    location=HAMBURG,
    delivery_hours=MORNINGS,
    payment_days=30,
    credit_limit_minor=2_500_000,
    priority="high",
    promise_hours=24,
    registered_at=NOON,
)
CHANGE = ChangeClient(client_id="C-1", payment_days=14, changed_at=NOON)
RETIRE = RetireClient(client_id="C-1", reason="contract ended", retired_at=NOON)
REINSTATE = ReinstateClient(client_id="C-1", reason="new contract", reinstated_at=NOON)

opened = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=None,
)
closed = SiteClosed(site_id="S-1", reason="moved", closed_at=None)
registered = ClientRegistered(
    client_id="C-1",
    name="Bakery Chain North GmbH",
    currency="EUR",
    default_site_id="S-1",
    location=HAMBURG,
    opening_hours=None,
    delivery_hours=MORNINGS,
    payment_days=30,
    credit_limit_minor=2_500_000,
    priority="high",
    promise_hours=24,
    registered_at=NOON,
)
changed_terms = ClientChanged(
    **registered.model_dump(exclude={"registered_at"}) | {"payment_days": 14},
    changed="payment_days",
    changed_at=NOON,
)
retired = ClientRetired(client_id="C-1", reason="contract ended", retired_at=NOON)
reinstated = ClientReinstated(client_id="C-1", reason="new contract", reinstated_at=NOON)


def other(message: Any, **fields: Any) -> Any:
    return message.model_copy(update=fields)


def test_a_client_is_registered() -> None:
    given().reading(opened).when(REGISTER).then(registered)


def test_a_client_may_do_without_a_site() -> None:
    given().when(other(REGISTER, default_site_id=None)).then(
        other(registered, default_site_id=None)
    )


@pytest.mark.parametrize(
    ("history", "was_retired"), [([registered], False), ([registered, retired], True)]
)
def test_a_client_is_registered_once(history: list[Event], was_retired: bool) -> None:
    given(*history).reading(opened).when(REGISTER).refused(
        "client.already_registered", client_id="C-1", retired=was_retired
    )


def test_the_default_site_is_one_that_is_open() -> None:
    named = {"site_id": "S-1", "field": "default_site_id"}
    given().when(REGISTER).refused("site.unknown", **named)
    given().reading(opened, closed).when(REGISTER).refused("site.closed", **named)
    moved = other(CHANGE, default_site_id="S-2")
    given(registered).when(moved).refused("site.unknown", site_id="S-2", field="default_site_id")


def test_a_change_tells_what_is_other_and_keeps_the_rest() -> None:
    given(registered).when(CHANGE).then(changed_terms)
    given(registered, changed_terms).when(
        ChangeClient(client_id="C-1", name="North & Sons", priority="low", changed_at=NOON)
    ).then(other(changed_terms, name="North & Sons", priority="low", changed="name, priority"))


def test_a_change_of_nothing_is_no_event() -> None:
    given(registered, changed_terms).when(CHANGE).then()
    given(registered).when(ChangeClient(client_id="C-1", changed_at=NOON)).then()


def test_what_is_cleared_is_not_known_any_more() -> None:
    cleared: Any = ("credit_limit_minor", "default_site_id", "delivery_hours")
    given(registered).when(ChangeClient(client_id="C-1", clear=cleared, changed_at=NOON)).then(
        other(
            changed_terms,
            payment_days=30,
            credit_limit_minor=None,
            default_site_id=None,
            delivery_hours=None,
            changed="default_site_id, delivery_hours, credit_limit_minor",
        )
    )


def test_a_limit_does_not_silently_become_one_of_another_currency() -> None:
    to_yen = ChangeClient(client_id="C-1", currency="JPY", changed_at=NOON)
    given(registered).when(to_yen).refused(
        "client.limit_in_another_currency",
        credit_limit_minor=2_500_000,
        currency="EUR",
        asked="JPY",
    )
    given(registered).when(other(to_yen, credit_limit_minor=4_000_000)).then(
        other(
            changed_terms,
            payment_days=30,
            currency="JPY",
            credit_limit_minor=4_000_000,
            changed="currency, credit_limit_minor",
        )
    )
    given(registered).when(other(to_yen, clear=("credit_limit_minor",))).then(
        other(
            changed_terms,
            payment_days=30,
            currency="JPY",
            credit_limit_minor=None,
            changed="currency, credit_limit_minor",
        )
    )


def test_a_client_is_retired_and_reinstated_in_turns() -> None:
    given(registered).when(RETIRE).then(retired)
    given(registered, retired).when(REINSTATE).then(reinstated)
    given(registered, retired, reinstated).when(RETIRE).then(retired)
    given(registered, retired).when(RETIRE).refused("client.retired", client_id="C-1")
    given(registered).when(REINSTATE).refused("client.not_retired", client_id="C-1")
    given(registered, retired).when(CHANGE).refused("client.retired", client_id="C-1")


def test_what_was_said_outlives_a_retirement() -> None:
    client = CLIENTS.fold([registered, changed_terms, retired, reinstated])
    assert (client.payment_days, client.location, client.is_retired) == (14, HAMBURG, False)


@pytest.mark.parametrize("command", [CHANGE, RETIRE, REINSTATE], ids=type)
def test_who_is_not_known_is_neither_changed_nor_retired(command: Command) -> None:
    given().when(command).refused("client.unknown", client_id="C-1")


def test_orders_may_ask_for_a_client_that_is_active() -> None:
    must_be_active(CLIENTS.fold([registered]), "C-1")
    with pytest.raises(Refused, match=r"client\.retired"):
        must_be_active(CLIENTS.fold([registered, retired]), "C-1")
    with pytest.raises(Refused, match=r"client\.unknown"):
        must_be_active(CLIENTS.initial, "C-1")


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (RegisterClient, {"client_id": "a/b"}, "client_id", "match pattern"),
        (RegisterClient, {"name": ""}, "name", "at least 1 character"),
        (RegisterClient, {"currency": "EURO"}, "currency", "is not an ISO 4217"),
        (RegisterClient, {"credit_limit_minor": -1}, "credit_limit_minor", "greater than or equal"),
        (RegisterClient, {"payment_days": 366}, "payment_days", "less than or equal to 365"),
        (RegisterClient, {"promise_hours": 0}, "promise_hours", "greater than 0"),
        (RegisterClient, {"priority": "vip"}, "priority", "'high', 'standard' or 'low'"),
        (
            RegisterClient,
            {"location": {"latitude": 91, "longitude": 0}},
            "location.latitude",
            "less than or equal to 90",
        ),
        (
            RegisterClient,
            {"delivery_hours": {"zone": "Mars/Base", "spans": []}},
            "delivery_hours.zone",
            "no time zone",
        ),
        (RegisterClient, {"email": "ana@example.org"}, "email", "Extra inputs"),
        (ChangeClient, {"credit_limit_minor": -1}, "credit_limit_minor", "greater than or equal"),
        (ChangeClient, {"clear": ["name"]}, "clear.0", "Input should be"),
        (ChangeClient, {"clear": ["payment_days"]}, "clear", "payment_days is given a value"),
        (RetireClient, {"reason": ""}, "reason", "at least 1 character"),
        (ReinstateClient, {"reinstated_at": "2026-03-01T12:00:00"}, "reinstated_at", "timezone"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    [sound] = [one for one in (REGISTER, CHANGE, RETIRE, REINSTATE) if isinstance(one, kind)]
    assert problems(kind, **sound.model_dump()) == ""
    told = problems(kind, **sound.model_dump() | fields)
    assert field in told
    assert rule in told
