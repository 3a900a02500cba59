"""KPIs of orders that were split: money and units are counted once, by hand and by the rules."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from domain.orders import DeliverOrder, ShipOrder, ShipPart, SplitOrder
from domain.shipments import LineQuantity
from domain.values import Command, Event
from projections.kpis import DAILY_KPIS
from tests.order_world import DAY, HOUR, NOON, PROMISED, allocated, changed, opened, placed
from tests.spec import given, stream_of
from tests.test_kpis import folded, told

MARCH = NOON.date(), NOON.date()
#: 10 of A at 1.50 EUR and 4 of B at 10.00 EUR, and 3.00 EUR to bring them: 55.00 EUR and 3.00 EUR.
PLACED = changed(placed, freight_minor=300)
FIRST = LineQuantity(line_no=1, quantity=Decimal(6))
SPLIT_OFF = LineQuantity(line_no=1, quantity=Decimal(4))


def lived(*commands: Command) -> tuple[Event, ...]:
    """Every event of an order and of what was split off it, as the rules answer."""
    events: list[Event] = [opened, PLACED, allocated]
    for command in commands:
        stream = f"orders/{command.order_id}"  # type: ignore[attr-defined]
        own = [one for one in events if stream_of(one) == stream]
        others = [one for one in events if stream_of(one) != stream]
        outcome = given(*own).reading(*others).when(command)
        assert outcome.refusal is None, outcome.refusal
        events += outcome.events
    return tuple(events)


@pytest.fixture(scope="module")
def events() -> tuple[Event, ...]:
    """10 of A and 4 of B are ordered. 4 of A become O-2. O-1 leaves in two shipments, first 6 of A,
    and is there in time; O-2 leaves at once and is late."""
    shipped = NOON + 3 * HOUR
    return lived(
        SplitOrder(order_id="O-1", new_order_id="O-2", lines=(SPLIT_OFF,), split_at=NOON + HOUR),
        ShipPart(
            order_id="O-1", shipment_id="P-1", lines=(FIRST,), carrier="DHL", shipped_at=shipped
        ),
        ShipOrder(order_id="O-1", carrier="DHL", shipped_at=shipped),
        DeliverOrder(order_id="O-1", delivered_at=NOON + DAY),
        ShipOrder(order_id="O-2", carrier="DHL", shipped_at=shipped),
        DeliverOrder(order_id="O-2", delivered_at=PROMISED + HOUR),
    )


def of_day(events: tuple[Event, ...]) -> dict[str, Any]:
    (row,) = folded(DAILY_KPIS.name, events).iter_rows(named=True)
    return row


def test_money_is_counted_once(events: tuple[Event, ...]) -> None:
    row = of_day(events)
    # Sold is what the first order says; 4 of A for 6.00 EUR went along to O-2.
    assert (row["revenue_minor"], row["freight_minor"]) == (5_500, 300)
    # What was split off is an order of its own: it is delivered by itself, and late by itself.
    assert (row["orders"], row["delivered"], row["late"]) == (2, 2, 1)


def test_units_and_fills_are_counted_once(events: tuple[Event, ...]) -> None:
    # Ordered are 6 + 4 of A and 4 of B = 14; the first shipments held 6 of O-1, 4 of O-2.
    assert told("fill_rate_unit", events, period=MARCH)[()] == pytest.approx(10 / 14)
    rows = folded("order_kpis", events)
    assert rows.select(pl.col("units_ordered", "units_filled").sum().cast(int)).row(0) == (14, 10)
    # Three lines: 6 of A (whole in the first shipment), 4 of B (not), the 4 of A of O-2 (whole).
    assert told("fill_rate_line", events, period=MARCH)[()] == pytest.approx(2 / 3)
    assert told("fill_rate_order", events, period=MARCH) == {(): 0.5}


def test_in_full_is_what_is_left_of_each(events: tuple[Event, ...]) -> None:
    # O-1 has all that was left of it in time, O-2 all of its own late: 1 of 2.
    assert told("otif", events, period=MARCH) == {(): 0.5}
    assert told("late_share", events, period=MARCH) == {(): 0.5}
    assert told("otif", events, ["client"], MARCH) == {("C-1",): 0.5}
