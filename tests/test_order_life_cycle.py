"""The life of orders in any order of commands, against models as plain as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from commands import HANDLERS
from domain import catalogue
from domain.clients import RegisterClient
from domain.decider import Decider
from domain.errors import Refused
from domain.inventory import STOCK, AdjustStock, PickStock, ReceiveStock, StockPicked
from domain.order_events import (
    BackorderFilled,
    LinesCancelled,
    LinesReturned,
    OrderCancelled,
    OrderPartShipped,
    OrderPicked,
    OrderPlaced,
    OrderReleased,
    OrderReserved,
    OrderSplit,
    ShipmentDelivered,
)
from domain.order_state import Status
from domain.orders import (
    ORDERS,
    AllocateOrder,
    CancelLines,
    CancelOrder,
    DeliverOrder,
    DeliverShipment,
    FillBackorder,
    Order,
    OrderAllocated,
    OrderDelivered,
    OrderLine,
    OrderShipped,
    PlaceOrder,
    ReleaseOrder,
    RepromiseOrder,
    ReserveOrder,
    ReturnOrder,
    ShipOrder,
    ShipPart,
    SplitOrder,
)
from domain.products import RegisterProduct
from domain.shipments import LineQuantity
from domain.sites import SITES, OpenSite, ServiceLevel
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
        read: list[Any] = [
            SITE if one.decider is SITES else VEHICLE for one in handler.reads(command)
        ]
        if handler.several:  # nothing is reserved here, so there is no other stream
            read = [{}]
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


# with stock, in parts

SKUS = ("A", "B")
NAMES = ("O-1", "O-2", "O-3", "O-4")
ORGANISATION = UUID(int=1)
LATER = NOON + timedelta(days=1)

#: Prices at which halves of a minor unit are often rounded, and one at which they seldom are.
PRICES = (1, 3, 333)
STEPS = {"A": Decimal(1), "B": Decimal("0.5")}

pieces = st.integers(1, 6).map(Decimal)
quantities = pieces | st.sampled_from(["0.3", "0.5", "0.6", "1.2", "1.5", "2.5"]).map(Decimal)
#: Mostly of orders that there are from the start.
names = st.sampled_from(["O-1", "O-1", "O-1", "O-2", "O-2", "O-3", "O-4"])
some_lines = st.dictionaries(st.sampled_from([1, 2]), quantities, min_size=1, max_size=2)


def lines_of(some: dict[int, Decimal]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_no=no, quantity=quantity) for no, quantity in some.items())


class StockAndOrders(RuleBasedStateMachine):
    """Every command on four orders and two stocks, in any order, over several streams at once."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[str, list[Event]] = {}
        self.numbers = 0
        #: The order that each was split from, or itself; and whose quantities are in steps.
        self.roots: dict[str, str] = {}
        self.in_steps: set[str] = set()
        #: Picked by hand, by root and SKU, and then given up: on no shelf, and not to be shipped.
        self.left_over: dict[tuple[str, str], Decimal] = {}
        self.send(OpenSite(site_id="S-1", opened_at=NOON))
        client = RegisterClient(client_id="C-1", name="Shop", currency="EUR", registered_at=NOON)
        assert self.send(client) == "ok"
        for sku, unit in (("A", "C62"), ("B", "KGM")):
            product = RegisterProduct(
                sku=sku, name=sku, unit=unit, quantity_step=STEPS[sku], registered_at=NOON
            )
            assert self.send(product) == "ok"

    def fold(self, stream: str, decider: Decider[Any]) -> Any:
        return decider.fold(self.streams.get(stream, []))

    def order(self, order_id: str) -> Order:
        order = self.fold(f"orders/{order_id}", ORDERS)
        assert isinstance(order, Order)
        return order

    def send(self, command: Command) -> str:
        """Run a command as the bus does: each event goes to its stream; all of them or none."""
        handler = HANDLERS[type(command)]
        own = handler.stream(command)
        state = self.fold(own, handler.decider)
        try:
            if handler.several:
                streams = handler.all_streams(ORGANISATION, command, state)
                states = {one.name: self.fold(one.name, one.decider) for one in streams}
                events = handler.decide(command, ACTOR, state, states)
                allowed = {one.name for one in streams if one.appends}
            else:
                read = [self.fold(one.stream, one.decider) for one in handler.reads(command)]
                events = handler.decide(command, ACTOR, state, *read)
                allowed = {own}
        except Refused as refusal:
            return refusal.code
        self.count_left_over(events)
        for event in events:
            name = catalogue.stream_of(event)
            assert name in allowed, (name, allowed)
            self.streams.setdefault(name, []).append(event)
        return "ok"

    def number(self, what: str) -> str:
        self.numbers += 1
        return f"{what}-{self.numbers}"

    def count_left_over(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, LinesCancelled):
                gone = {(one.sku, one.picked) for one in event.lines}
            elif isinstance(event, OrderCancelled):
                gone = {(one.sku, one.picked) for one in self.order(event.order_id).lines}
                if any(isinstance(one, LinesCancelled) for one in events):
                    continue
            else:
                continue
            for sku, quantity in gone:
                place = self.roots[event.order_id], sku
                self.left_over[place] = self.left_over.get(place, Decimal(0)) + quantity

    @rule(
        order_id=names,
        first=quantities,
        second=quantities,
        price=st.sampled_from(PRICES),
        checked=st.booleans(),
    )
    def place_and_allocate(
        self, order_id: str, first: Decimal, second: Decimal, price: int, checked: bool
    ) -> None:
        wanted = ((1, "A", first), (2, "B", second))
        order = PlaceOrder(
            order_id=order_id,
            customer_id="C-1",
            currency="EUR",
            lines=tuple(
                OrderLine(line_no=number, sku=sku, quantity=quantity, unit_price_minor=price)
                for number, sku, quantity in wanted
            ),
            placed_at=NOON,
            promised_at=LATER,
            check_references=checked,
        )
        fits = not checked or not any(quantity % STEPS[sku] for _, sku, quantity in wanted)
        is_new = self.order(order_id).status is Status.UNKNOWN
        answer = self.send(order)
        assert (answer == "ok") == (is_new and fits)
        if answer == "ok":
            self.roots[order_id] = order_id
            if checked:
                self.in_steps.add(order_id)
            self.allocate(order_id)

    @initialize(
        quantity=quantities, price=st.sampled_from(PRICES), checked=st.booleans(), many=pieces
    )
    def begin(self, quantity: Decimal, price: int, checked: bool, many: Decimal) -> None:
        """Two orders, and some stock of what they want."""
        self.place_and_allocate("O-1", quantity, many, price, checked)
        self.place_and_allocate("O-2", many, quantity, 1, False)
        for sku in SKUS:
            self.receive(sku, many)

    def fits(self, order_id: str, some: dict[int, Decimal]) -> bool:
        """Whether these are quantities in which the lines are sold, of lines that there are."""
        lines = {line.line_no: line for line in self.order(order_id).lines}
        return all(
            no in lines and not (order_id in self.in_steps and quantity % STEPS[lines[no].sku])
            for no, quantity in some.items()
        )

    @rule(order_id=names)
    def allocate(self, order_id: str) -> None:
        self.send(AllocateOrder(order_id=order_id, site_id="S-1", allocated_at=NOON))

    @rule(sku=st.sampled_from(SKUS), quantity=quantities)
    def receive(self, sku: str, quantity: Decimal) -> None:
        command = ReceiveStock(site_id="S-1", sku=sku, quantity=quantity, received_at=NOON)
        assert self.send(command) == "ok"

    @rule(sku=st.sampled_from(SKUS), quantity=quantities, order_id=st.none() | names)
    def pick(self, sku: str, quantity: Decimal, order_id: str | None) -> None:
        stock = self.fold(f"stock/S-1/{sku}", STOCK)
        own = min(stock.reserved_for(order_id), quantity)
        command = PickStock(
            site_id="S-1", sku=sku, quantity=quantity, order_id=order_id, picked_at=NOON
        )
        enough = stock.on_hand - stock.reserved >= quantity - own
        if own and order_id in self.in_steps and quantity % STEPS[sku]:
            assert self.send(command) in ("order.quantity_not_in_steps", "stock.not_enough")
        else:
            assert self.send(command) == ("ok" if enough else "stock.not_enough")

    @rule(order_id=names, line_no=st.sampled_from([1, 2]))
    def pick_what_is_put_aside(self, order_id: str, line_no: int) -> None:
        lines = [one for one in self.order(order_id).lines if one.line_no == line_no]
        if lines and lines[0].reserved:
            self.pick(lines[0].sku, lines[0].reserved, order_id)

    @rule(order_id=names, line_no=st.sampled_from([1, 2]))
    def pick_and_put_aside_again(self, order_id: str, line_no: int) -> None:
        self.receive(SKUS[line_no - 1], Decimal(6))
        self.reserve(order_id, True)
        self.pick_what_is_put_aside(order_id, line_no)
        self.release(order_id)
        self.receive(SKUS[line_no - 1], Decimal(6))
        self.reserve(order_id, True)

    @rule(
        order_id=names,
        line_no=st.sampled_from([1, 2]),
        how=st.sampled_from(["cancel_lines", "take_back"]),
        each=quantities,
    )
    def in_small_parts(self, order_id: str, line_no: int, how: str, each: Decimal) -> None:
        for _ in range(12):
            if how == "take_back":
                self.take_back(order_id, {line_no: each}, True)
            else:
                self.cancel_lines(order_id, {line_no: each})

    @rule(
        order_id=names,
        line_no=st.sampled_from([1, 2]),
        how=st.sampled_from(["ship_part", "cancel_lines", "split"]),
    )
    def close_a_line(self, order_id: str, line_no: int, how: str) -> None:
        """All that is open of a line goes; the rest is released and put aside anew."""
        lines = [one for one in self.order(order_id).lines if one.line_no == line_no]
        if not lines or not lines[0].open:
            return
        some = {line_no: lines[0].open}
        if how == "split":
            self.split(order_id, NAMES[NAMES.index(order_id) - 1], some)
        else:
            getattr(self, how)(order_id, some)
        self.release(order_id)
        self.reserve(order_id, True)

    @rule(sku=st.sampled_from(SKUS), quantity=quantities)
    def break_some(self, sku: str, quantity: Decimal) -> None:
        stock = self.fold(f"stock/S-1/{sku}", STOCK)
        left = stock.on_hand - quantity
        expected = "stock.not_enough" if left < 0 else "stock.reserved"
        command = AdjustStock(
            site_id="S-1", sku=sku, change=-quantity, reason="broken", adjusted_at=NOON
        )
        assert self.send(command) == ("ok" if left >= stock.reserved else expected)

    @rule(order_id=names, partial=st.booleans())
    def reserve(self, order_id: str, partial: bool) -> None:
        self.send(ReserveOrder(order_id=order_id, partial=partial, reserved_at=NOON))

    @rule(order_id=names)
    def release(self, order_id: str) -> None:
        self.send(ReleaseOrder(order_id=order_id, released_at=NOON))

    @rule(order_id=names, line_no=st.none() | st.sampled_from([1, 2]))
    def fill(self, order_id: str, line_no: int | None) -> None:
        self.send(FillBackorder(order_id=order_id, line_no=line_no, filled_at=NOON))

    @rule(order_id=names, some=some_lines)
    def ship_part(self, order_id: str, some: dict[int, Decimal]) -> None:
        order = self.order(order_id)
        fits = (
            order.status in (Status.ALLOCATED, Status.PARTLY_SHIPPED)
            and self.fits(order_id, some)
            and all(
                order.line(no).open - order.line(no).backordered >= quantity
                for no, quantity in some.items()
            )
        )
        command = ShipPart(
            order_id=order_id,
            shipment_id=self.number("P"),
            lines=lines_of(some),
            shipped_at=NOON,
        )
        assert (self.send(command) == "ok") == fits

    @rule(order_id=names)
    def ship(self, order_id: str) -> None:
        order = self.order(order_id)
        waits = any(line.backordered for line in order.lines)
        may = order.status in (Status.ALLOCATED, Status.PARTLY_SHIPPED) and not waits
        assert (self.send(ShipOrder(order_id=order_id, shipped_at=NOON)) == "ok") == may

    @rule(order_id=names, number=st.integers(0, 3), hours=st.integers(0, 48))
    def deliver_shipment(self, order_id: str, number: int, hours: int) -> None:
        parts = self.order(order_id).parts
        shipment_id = parts[number % len(parts)].shipment_id if parts else "1"
        at = NOON + timedelta(hours=hours)
        self.send(DeliverShipment(order_id=order_id, shipment_id=shipment_id, delivered_at=at))

    @rule(order_id=names)
    def deliver(self, order_id: str) -> None:
        shipped = self.order(order_id).status is Status.SHIPPED
        command = DeliverOrder(order_id=order_id, delivered_at=NOON)
        assert (self.send(command) == "ok") == shipped

    @rule(order_id=names)
    def cancel(self, order_id: str) -> None:
        is_open = self.order(order_id).is_open
        command = CancelOrder(order_id=order_id, reason="x", cancelled_at=NOON)
        assert (self.send(command) == "ok") == is_open

    @rule(order_id=names, some=some_lines)
    def cancel_lines(self, order_id: str, some: dict[int, Decimal]) -> None:
        self.send(
            CancelLines(order_id=order_id, lines=lines_of(some), reason="x", cancelled_at=NOON)
        )

    @rule(order_id=names, new=names, some=some_lines)
    def split(self, order_id: str, new: str, some: dict[int, Decimal]) -> None:
        if order_id == new:
            return
        before = self.order(order_id)
        command = SplitOrder(
            order_id=order_id, new_order_id=new, lines=lines_of(some), split_at=NOON
        )
        if self.send(command) == "ok":
            assert self.fits(order_id, some)
            self.roots[new] = self.roots[order_id]
            if order_id in self.in_steps:
                self.in_steps.add(new)
            after, made = self.order(order_id), self.order(new)
            for line in made.lines:
                gone = before.line(line.line_no).open - after.line(line.line_no).open
                assert line.quantity == line.open == gone == some[line.line_no]
            assert (made.placed_at, made.promised_at) == (before.placed_at, before.promised_at)
            on_the_shelf = any(line.open > line.picked for line in made.lines)
            assert made.is_reserved == (before.is_reserved and on_the_shelf)

    @rule(order_id=names, some=some_lines, restock=st.booleans())
    def take_back(self, order_id: str, some: dict[int, Decimal], restock: bool) -> None:
        order = self.order(order_id)
        known = {line.line_no: line.delivered - line.returned for line in order.lines}
        fits = self.fits(order_id, some) and all(
            known[no] >= quantity for no, quantity in some.items()
        )
        command = ReturnOrder(
            order_id=order_id,
            return_id=self.number("R"),
            lines=lines_of(some),
            reason="x",
            site_id="S-1",
            restock=restock,
            returned_at=NOON,
        )
        assert (self.send(command) == "ok") == fits

    @rule(order_id=names)
    def take_all_back(self, order_id: str) -> None:
        for line in self.order(order_id).lines:
            if line.delivered > line.returned:
                self.take_back(order_id, {line.line_no: line.delivered - line.returned}, True)

    @rule(order_id=names, days=st.integers(0, 3))
    def repromise(self, order_id: str, days: int) -> None:
        at = NOON + timedelta(days=days)
        self.send(RepromiseOrder(order_id=order_id, promised_at=at, reason="x", repromised_at=NOON))

    @invariant()
    def every_line_adds_up(self) -> None:
        for order_id in NAMES:
            order = self.order(order_id)
            for line in order.lines:
                assert (
                    line.quantity == line.open + line.shipped + line.cancelled + line.split_off
                ), line
                assert 0 <= line.returned <= line.delivered <= line.shipped, line
                assert min(line.open, line.reserved, line.backordered, line.picked) >= 0, line
                waiting = line.reserved + line.backordered
                assert line.picked <= line.open, line
                assert waiting == (line.open - line.picked if order.is_reserved else 0), line
            nothing_open = not any(line.open for line in order.lines)
            assert order.is_open != nothing_open or order.status is Status.UNKNOWN
            if order.parts:
                assert sum(q for part in order.parts for _, q in part.lines) == sum(
                    line.shipped for line in order.lines
                )

    @invariant()
    def stock_and_orders_agree(self) -> None:
        for sku in SKUS:
            stock = self.fold(f"stock/S-1/{sku}", STOCK)
            assert 0 <= stock.reserved <= stock.on_hand
            assert stock.reserved == sum(stock.orders.values())
            told = {
                order_id: sum(
                    (one.reserved for one in self.order(order_id).lines if one.sku == sku),
                    Decimal(0),
                )
                for order_id in NAMES
            }
            assert stock.orders == {order_id: many for order_id, many in told.items() if many}

    @invariant()
    def no_more_leaves_the_shelf_than_is_ordered_or_shipped(self) -> None:
        """Of an order with all that was split off it: its stock is taken once."""
        for sku in SKUS:
            stock = self.fold(f"stock/S-1/{sku}", STOCK)
            picks = [
                event
                for event in self.streams.get(f"stock/S-1/{sku}", [])
                if isinstance(event, StockPicked) and event.reserved is not None
            ]
            for root in set(self.roots.values()):
                family = [one for one, of in self.roots.items() if of == root]
                lines = [
                    line for one in family for line in self.order(one).lines if line.sku == sku
                ]
                taken = sum((one.reserved or 0) for one in picks if one.order_id in family)
                aside = sum(stock.reserved_for(order_id) for order_id in family)
                ordered = sum(line.quantity - line.split_off for line in lines)
                at_hand = sum(line.shipped + line.picked for line in lines)
                assert taken + aside <= ordered
                assert taken <= at_hand + self.left_over.get((root, sku), Decimal(0))

    @invariant()
    def parts_and_rest_are_worth_what_the_whole_was(self) -> None:
        for order_id in NAMES:
            events = self.streams.get(f"orders/{order_id}", [])
            worth = taken_back = Decimal(0)
            kept: dict[int, Decimal] = {}
            for event in events:
                if isinstance(event, OrderPlaced):
                    worth += event.goods_minor
                    kept = {line.line_no: line.quantity for line in event.lines}
                elif isinstance(event, OrderSplit | LinesCancelled):
                    assert event.goods_minor >= 0
                    worth -= event.goods_minor
                    for line in event.lines:
                        kept[line.line_no] -= line.quantity
                elif isinstance(event, LinesReturned):
                    assert event.goods_minor >= 0
                    taken_back += event.goods_minor
            order = self.order(order_id)
            exact = sum(kept[line.line_no] * line.unit_price_minor for line in order.lines)
            assert abs(worth - exact) <= len(kept)  # half a minor unit at each end of a line
            assert 0 <= taken_back <= worth
            if not any(kept.values()):
                assert worth == 0
            if all(kept[line.line_no] == line.returned for line in order.lines):
                assert taken_back == worth

    @invariant()
    def parts_are_of_whole_steps(self) -> None:
        for order_id in self.in_steps:
            for line in self.order(order_id).lines:
                assert not any(
                    quantity % STEPS[line.sku]
                    for quantity in (line.open, line.reserved, line.shipped, line.returned)
                ), line

    @invariant()
    def what_events_say_in_all_is_what_the_lines_have(self) -> None:
        """The sums that read models make of events alone."""
        for order_id in NAMES:
            events = self.streams.get(f"orders/{order_id}", [])
            order = self.order(order_id)

            def total(kind: type[Event], name: str, events: list[Event] = events) -> Decimal:
                return sum(
                    (getattr(event, name) for event in events if isinstance(event, kind)),
                    Decimal(0),
                )

            reserved = total(OrderReserved, "units") + total(BackorderFilled, "quantity")
            for kind in (OrderReleased, OrderPartShipped, LinesCancelled, OrderSplit, OrderPicked):
                reserved -= total(kind, "reserved")
            assert reserved == sum(line.reserved for line in order.lines)
            assert total(OrderSplit, "units") == sum(line.split_off for line in order.lines)
            assert total(LinesReturned, "units") == sum(line.returned for line in order.lines)
            if order.parts:
                shipped = sum(line.shipped for line in order.lines)
                assert total(OrderPartShipped, "units") == shipped
                assert total(ShipmentDelivered, "units") == sum(
                    line.delivered for line in order.lines
                )
            stored = [catalogue.decode(*catalogue.encode(event)) for event in events]
            assert ORDERS.fold(stored) == order


TestStockAndOrders = StockAndOrders.TestCase
TestStockAndOrders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
