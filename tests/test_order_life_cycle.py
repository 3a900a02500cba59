"""The life of orders in any order of commands, against a model as plain as can be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commands import HANDLERS
from domain import catalogue
from domain.errors import Refused
from domain.inventory import SITES, OpenSite, ServiceLevel
from domain.orders import (
    ORDERS,
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    Order,
    OrderAllocated,
    OrderDelivered,
    OrderLine,
    OrderShipped,
    PlaceOrder,
    ShipOrder,
)
from domain.transport import VEHICLES, RegisterVehicle
from domain.values import Command, Event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACTOR = "ana"
SITE = SITES.fold(
    HANDLERS[OpenSite].decide(
        OpenSite(
            site_id="S-1",
            service_levels=(ServiceLevel(code="standard"), ServiceLevel(code="express")),
            opened_at=NOON,
        ),
        ACTOR,
        SITES.initial,
    )
)
VEHICLE = VEHICLES.fold(
    HANDLERS[RegisterVehicle].decide(
        RegisterVehicle(
            vehicle_id="V-1",
            site_id="S-1",
            mode="van",
            service_levels=("standard", "express"),
            registered_at=NOON,
        ),
        ACTOR,
        VEHICLES.initial,
        SITE,
    )
)
#: What each command makes of each status: the next one, or the refusal.
TABLE: dict[type[Command], dict[str, str]] = {
    PlaceOrder: {
        "unknown": "placed",
        "placed": "order.already_placed",
        "allocated": "order.already_placed",
        "shipped": "order.already_placed",
        "delivered": "order.already_placed",
        "cancelled": "order.already_placed",
    },
    AllocateOrder: {
        "unknown": "order.unknown",
        "placed": "allocated",
        "allocated": "allocated",
        "shipped": "order.already_shipped",
        "delivered": "order.already_delivered",
        "cancelled": "order.already_cancelled",
    },
    ShipOrder: {
        "unknown": "order.unknown",
        "placed": "order.not_allocated",
        "allocated": "shipped",
        "shipped": "order.already_shipped",
        "delivered": "order.already_delivered",
        "cancelled": "order.already_cancelled",
    },
    DeliverOrder: {
        "unknown": "order.unknown",
        "placed": "order.not_shipped",
        "allocated": "order.not_shipped",
        "shipped": "delivered",
        "delivered": "order.already_delivered",
        "cancelled": "order.already_cancelled",
    },
    CancelOrder: {
        "unknown": "order.unknown",
        "placed": "cancelled",
        "allocated": "cancelled",
        "shipped": "order.already_shipped",
        "delivered": "order.already_shipped",
        "cancelled": "order.already_cancelled",
    },
}


@dataclass
class Expected:
    """What the model knows of one order."""

    status: str = "unknown"
    level: str = ""
    vehicle_id: str | None = None
    placed_at: datetime | None = None
    promised_at: datetime | None = None
    allocated_at: datetime | None = None
    shipped_at: datetime | None = None
    late: bool | None = None
    events: int = 0


orders = st.sampled_from(["O-1", "O-2", "O-3"])
hours = st.integers(-48, 48).map(lambda number: NOON + timedelta(hours=number))
moments = st.none() | hours


def assert_equal(told: str, expected: str) -> None:
    assert told == expected


class OrderLifeCycle(RuleBasedStateMachine):
    """Three orders, five commands, times in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[str, list[Event]] = {}
        self.model = {order_id: Expected() for order_id in ("O-1", "O-2", "O-3")}

    def state(self, order_id: str) -> Order:
        return ORDERS.fold(self.log.get(order_id, []))

    def send(self, order_id: str, command: Command) -> Event | None:
        """Run a command; its event, or None where it was refused as the table says."""
        handler = HANDLERS[type(command)]
        before = self.state(order_id)
        read = [SITE if one.decider is SITES else VEHICLE for one in handler.reads(command)]
        expected = self.model[order_id]
        outcome = TABLE[type(command)][expected.status]
        try:
            [event] = handler.decide(command, ACTOR, before, *read)
        except Refused as refusal:
            # A refusal leaves no event, so the state is what it was (see the invariant).
            assert_equal(refusal.code, outcome)
            return None
        self.log.setdefault(order_id, []).append(event)
        expected.status = self.state(order_id).status.value
        expected.events += 1
        assert_equal(expected.status, outcome)
        return event

    @rule(order_id=orders, placed_at=hours, days=st.integers(0, 3))
    def place(self, order_id: str, placed_at: datetime, days: int) -> None:
        promised_at = placed_at + timedelta(days=days)
        line = OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100)
        command = PlaceOrder(
            order_id=order_id,
            customer_id="C-1",
            currency="EUR",
            lines=(line,),
            placed_at=placed_at,
            promised_at=promised_at,
        )
        if self.send(order_id, command) is not None:
            self.model[order_id].placed_at = placed_at
            self.model[order_id].promised_at = promised_at

    @rule(
        order_id=orders,
        level=st.sampled_from(["standard", "express"]),
        vehicle_id=st.sampled_from([None, "V-1"]),
        at=moments,
    )
    def allocate(
        self, order_id: str, level: str, vehicle_id: str | None, at: datetime | None
    ) -> None:
        command = AllocateOrder(
            order_id=order_id,
            site_id="S-1",
            service_level=level,
            vehicle_id=vehicle_id,
            allocated_at=at,
        )
        event = self.send(order_id, command)
        if isinstance(event, OrderAllocated):
            assert (event.service_level, event.vehicle_id) == (level, vehicle_id)
            self.model[order_id].level = level
            self.model[order_id].vehicle_id = vehicle_id
            self.model[order_id].allocated_at = at

    @rule(order_id=orders, at=moments)
    def ship(self, order_id: str, at: datetime | None) -> None:
        event = self.send(order_id, ShipOrder(order_id=order_id, shipped_at=at))
        if isinstance(event, OrderShipped):
            expected = self.model[order_id]
            assert event.service_level == expected.level
            assert event.vehicle_id == expected.vehicle_id
            known = at is not None and expected.allocated_at is not None
            assert (event.handling_s is not None) == known
            assert event.out_of_order == (
                at is not None and expected.allocated_at is not None and at < expected.allocated_at
            )
            expected.shipped_at = at

    @rule(order_id=orders, at=moments)
    def deliver(self, order_id: str, at: datetime | None) -> None:
        event = self.send(order_id, DeliverOrder(order_id=order_id, delivered_at=at))
        if isinstance(event, OrderDelivered):
            expected = self.model[order_id]
            assert expected.promised_at is not None
            assert event.late == (None if at is None else at > expected.promised_at)
            assert event.placed_at == expected.placed_at
            assert event.vehicle_id == expected.vehicle_id
            assert event.out_of_order == (
                at is not None and expected.shipped_at is not None and at < expected.shipped_at
            )
            expected.late = event.late

    @rule(order_id=orders, at=moments)
    def cancel(self, order_id: str, at: datetime | None) -> None:
        self.send(order_id, CancelOrder(order_id=order_id, reason="x", cancelled_at=at))

    @invariant()
    def the_log_holds_what_was_accepted(self) -> None:
        for order_id, expected in self.model.items():
            events = self.log.get(order_id, [])
            assert len(events) == expected.events
            assert self.state(order_id).status.value == expected.status
            final = [event for event in events if isinstance(event, OrderDelivered)]
            assert final in ([], events[-1:])  # nothing comes after a delivery
            stored = [catalogue.decode(*catalogue.encode(event)) for event in events]
            assert ORDERS.fold(stored) == self.state(order_id)


TestOrderLifeCycle = OrderLifeCycle.TestCase
TestOrderLifeCycle.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
