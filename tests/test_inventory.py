"""Inventory: sites open and close, and stock never falls below zero."""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from commands import HANDLERS
from domain.errors import Refused
from domain.inventory import (
    STOCK,
    AdjustStock,
    PickStock,
    ReceiveStock,
    StockAdjusted,
    StockPicked,
    StockReceived,
)
from domain.sites import CloseSite, OpenSite, ServiceLevel, Site, SiteClosed, SiteOpened
from domain.values import Command, Event
from tests.spec import ACTOR, given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEVELS = (ServiceLevel(code="standard", cost_minor=500, carbon_g=900), ServiceLevel(code="express"))

OPEN = OpenSite(
    site_id="S-1",
    name="Lisbon",
    region="LIS",
    service_levels=LEVELS,
    daily_capacity=200,
    opened_at=NOON,
)
CLOSE = CloseSite(site_id="S-1", reason="moved", closed_at=NOON)
RECEIVE = ReceiveStock(site_id="S-1", sku="SKU-1", quantity=Decimal(12), received_at=NOON)
PICK = PickStock(site_id="S-1", sku="SKU-1", quantity=Decimal(5), order_id="O-1", picked_at=NOON)
ADJUST = AdjustStock(
    site_id="S-1", sku="SKU-1", change=Decimal(-2), reason="broken", adjusted_at=NOON
)

opened = SiteOpened(
    site_id="S-1",
    name="Lisbon",
    region="LIS",
    service_levels=LEVELS,
    daily_capacity=200,
    opened_at=NOON,
)
closed = SiteClosed(site_id="S-1", reason="moved", closed_at=NOON)
received = StockReceived(site_id="S-1", sku="SKU-1", quantity=Decimal(12), received_at=NOON)
picked = StockPicked(
    site_id="S-1", sku="SKU-1", quantity=Decimal(5), order_id="O-1", picked_at=NOON
)
adjusted = StockAdjusted(
    site_id="S-1", sku="SKU-1", change=Decimal(-2), reason="broken", adjusted_at=NOON
)


# sites


def test_a_site_is_opened() -> None:
    given().when(OPEN).then(opened)


@pytest.mark.parametrize("history", [[opened], [opened, closed]])
def test_a_site_is_opened_once(history: list[Event]) -> None:
    given(*history).when(OPEN).refused("site.already_opened", site_id="S-1")


def test_a_site_is_closed() -> None:
    given(opened).when(CLOSE).then(closed)


def test_a_site_that_was_never_opened_is_not_closed() -> None:
    given().when(CLOSE).refused("site.unknown", site_id="S-1")


def test_a_site_is_closed_once() -> None:
    given(opened, closed).when(CLOSE).refused("site.closed", site_id="S-1")


# stock


def test_goods_come_in() -> None:
    given().reading(opened).when(RECEIVE).then(received)


def test_goods_are_picked() -> None:
    given(received).reading(opened).when(PICK).then(picked)


def test_the_last_piece_may_be_picked() -> None:
    given(received).reading(opened).when(PICK.model_copy(update={"quantity": Decimal(12)})).then(
        picked.model_copy(update={"quantity": Decimal(12)})
    )


def test_no_more_is_picked_than_there_is() -> None:
    given(received, picked, picked).reading(opened).when(PICK).refused(
        "stock.not_enough", on_hand="2", asked="5"
    )


def test_nothing_is_picked_where_nothing_came_in() -> None:
    given().reading(opened).when(PICK).refused("stock.not_enough", on_hand="0")


def test_thousandths_are_counted_exactly() -> None:
    tenth = received.model_copy(update={"quantity": Decimal("0.1")})
    third = PICK.model_copy(update={"quantity": Decimal("0.3")})
    given(tenth, tenth, tenth).reading(opened).when(third).then(
        picked.model_copy(update={"quantity": Decimal("0.3")})
    )


def test_stock_is_corrected_down() -> None:
    given(received).reading(opened).when(ADJUST).then(adjusted)


def test_stock_is_corrected_up_from_nothing() -> None:
    found = ADJUST.model_copy(update={"change": Decimal(3), "reason": "found"})
    given().reading(opened).when(found).then(
        adjusted.model_copy(update={"change": Decimal(3), "reason": "found"})
    )


def test_stock_is_not_corrected_below_zero() -> None:
    given(received).reading(opened).when(
        ADJUST.model_copy(update={"change": Decimal("-12.001")})
    ).refused("stock.not_enough", on_hand="12", asked="12.001")


def test_a_closed_site_may_still_be_counted() -> None:
    given(received).reading(opened, closed).when(ADJUST).then(adjusted)


@pytest.mark.parametrize("command", [RECEIVE, PICK, ADJUST])
def test_stock_needs_a_site(command: Command) -> None:
    given(received).when(command).refused("site.unknown", site_id="S-1")


@pytest.mark.parametrize("command", [RECEIVE, PICK])
def test_a_closed_site_moves_no_goods(command: Command) -> None:
    given(received).reading(opened, closed).when(command).refused("site.closed", site_id="S-1")


# stock, whatever is asked in whatever order

amounts = st.decimals(min_value="0.001", max_value=50, places=3)
movements = st.lists(
    st.one_of(
        amounts.map(lambda amount: RECEIVE.model_copy(update={"quantity": amount})),
        amounts.map(lambda amount: PICK.model_copy(update={"quantity": amount})),
        st.tuples(amounts, st.sampled_from([1, -1])).map(
            lambda two: ADJUST.model_copy(update={"change": two[0] * two[1]})
        ),
    ),
    max_size=30,
)


def _asked(command: Command) -> Decimal:
    match command:
        case ReceiveStock():
            return command.quantity
        case PickStock():
            return -command.quantity
        case AdjustStock():
            return command.change
    raise AssertionError(command)


@examples(movements)
def test_stock_never_falls_below_zero_and_loses_nothing(commands: list[Command]) -> None:
    stock, on_hand = STOCK.initial, Decimal(0)
    site = Site(site_id="S-1", is_open=True)
    refused, impossible = [], []
    for number, command in enumerate(commands):
        if on_hand + _asked(command) >= 0:
            on_hand += _asked(command)
        else:
            impossible.append((number, "stock.not_enough"))
        try:
            handler = HANDLERS[type(command)]
            read: Any = {"sites/S-1": site} if handler.several else site
            events = handler.decide(command, ACTOR, stock, read)
            stock = STOCK.fold(events, stock)
        except Refused as refusal:
            refused.append((number, refusal.code))
        assert stock.on_hand == on_hand >= 0
    assert refused == impossible


# what a command may hold


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [
        (OpenSite, {"opened_at": None, "service_levels": []}, "service_levels", "at least 1 item"),
        (
            OpenSite,
            {"opened_at": None, "service_levels": [{"code": "standard"}, {"code": "standard"}]},
            "service_levels",
            "codes must be unique",
        ),
        (OpenSite, {"opened_at": None, "daily_capacity": 0}, "daily_capacity", "greater than 0"),
        (
            OpenSite,
            {"opened_at": None, "service_levels": [{"code": "fast", "cost_minor": -1}]},
            "service_levels.0.cost_minor",
            "greater than or equal to 0",
        ),
        (
            OpenSite,
            {"opened_at": None, "service_levels": [{"code": "fast", "transit_s": 0}]},
            "service_levels.0.transit_s",
            "greater than 0",
        ),
        (
            OpenSite,
            {"opened_at": None, "service_levels": [{"code": "fast", "cut_off": "16:00:30"}]},
            "service_levels.0.cut_off",
            "must be HH:MM",
        ),
        (
            OpenSite,
            {"opened_at": None, "service_levels": [{"code": "fast", "cut_off": "16:00+02:00"}]},
            "service_levels.0.cut_off",
            "without a zone",
        ),
        (OpenSite, {"opened_at": None, "colour": "red"}, "colour", "Extra inputs"),
        (OpenSite, {}, "opened_at", "Field required"),
        (CloseSite, {"closed_at": None, "reason": ""}, "reason", "at least 1 character"),
        (CloseSite, {"closed_at": "2026-03-01T12:00:00", "reason": "x"}, "closed_at", "timezone"),
        (
            ReceiveStock,
            {"sku": "A", "quantity": "0", "received_at": None},
            "quantity",
            "greater than 0",
        ),
        (
            ReceiveStock,
            {"sku": "A", "quantity": "1e13", "received_at": None},
            "quantity",
            "digits",
        ),
        (
            PickStock,
            {"sku": "A", "quantity": "0.0001", "picked_at": None},
            "quantity",
            "no more than 3 decimal places",
        ),
        (PickStock, {"sku": "a/b", "quantity": "1", "picked_at": None}, "sku", "match pattern"),
        (
            AdjustStock,
            {"sku": "A", "change": "0", "reason": "x", "adjusted_at": None},
            "change",
            "must not be zero",
        ),
        (
            AdjustStock,
            {"sku": "A", "change": "Infinity", "reason": "x", "adjusted_at": None},
            "change",
            "finite number",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    kind: type[Command], fields: dict[str, Any], field: str, rule: str
) -> None:
    told = problems(kind, site_id="S-1", **fields)
    assert field in told
    assert rule in told


def test_a_site_offers_the_standard_level_where_nothing_is_said() -> None:
    assert [level.code for level in OpenSite(site_id="S", opened_at=None).service_levels] == [
        "standard"
    ]


def test_a_cut_off_is_written_as_a_clock_shows_it() -> None:
    level = ServiceLevel.model_validate({"code": "express", "transit_s": 3600, "cut_off": "16:05"})
    assert level.cut_off == time(16, 5)
    assert level.model_dump(mode="json")["cut_off"] == "16:05"
    assert ServiceLevel.model_validate_json(level.model_dump_json()) == level
