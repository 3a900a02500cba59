"""The people and machines of a simulated day: they follow the log and answer each event by the next
command, as dispatchers, pickers, drivers and customers would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from random import Random
from uuid import UUID

from commands import Bus
from commands.bulk import Keyed, Sender, send_all
from commands.sample_world import HOURS, REGIONS, articles
from domain import catalogue
from domain.decisions import DecisionFailed, DecisionMade, RequestDecision
from domain.inventory import ReceiveStock
from domain.order_events import (
    BackorderFilled,
    OrderAllocated,
    OrderBackordered,
    OrderDelivered,
    OrderPartShipped,
    OrderPlaced,
    OrderReserved,
    OrderShipped,
)
from domain.orders import (
    AllocateOrder,
    CancelOrder,
    DeliverOrder,
    FillBackorder,
    OrderLine,
    PlaceOrder,
    ReserveOrder,
    ReturnOrder,
    ShipOrder,
)
from domain.shipments import DeliverShipment, LineQuantity, ShipPart
from domain.values import Command, Event
from eventstore import Log, StoredEvent

DAY = datetime(2026, 1, 5, tzinfo=UTC)
#: Of a hundred customers, so many change their mind before the order left, and so many send back.
CANCEL_PERCENT, RETURN_PERCENT = 2, 1
_READ = 10_000
_HOUR = 3600


@dataclass
class Told:
    """What the log acknowledged to the driver: commands by name, and refusals by code."""

    stored: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def commands(self) -> int:
        """All that were stored."""
        return sum(self.stored.values())


def orders_of_the_day(count: int, seed: int = 11) -> list[PlaceOrder]:
    """The day's orders in the order of their times: by hour, region and popularity of articles as
    in the sample year."""
    random = Random(seed)
    wares = articles(random, 120)
    popularity = list(accumulate(article.demand for article in wares))
    shares = list(accumulate(place.share for place in REGIONS))
    hours = random.choices(range(24), HOURS, k=count)
    moments = sorted(hour * _HOUR + random.randrange(_HOUR) for hour in hours)
    made = []
    for number, moment in enumerate(moments):
        placed = DAY + timedelta(seconds=moment)
        [place] = random.choices(REGIONS, cum_weights=shares)
        size = random.choices((1, 2, 3, 4), (52, 28, 13, 7))[0]
        chosen = dict.fromkeys(random.choices(range(120), cum_weights=popularity, k=size))
        made.append(
            PlaceOrder(
                order_id=f"D-{number:06}",
                customer_id=f"C-{place.code}-{random.randrange(1, 400):03}",
                currency="EUR",
                region=place.code,
                placed_at=placed,
                promised_at=placed + timedelta(days=random.choice((2, 3, 4, 6))),
                lines=tuple(
                    OrderLine(
                        line_no=line_no,
                        sku=wares[ware].sku,
                        quantity=Decimal(random.choices((1, 2, 3), (75, 18, 7))[0]),
                        unit_price_minor=wares[ware].price_minor,
                        freight_minor=290 + wares[ware].weight_g // 50,
                        weight_g=wares[ware].weight_g,
                    )
                    for line_no, ware in enumerate(chosen, 1)
                ),
            )
        )
    return made


class Driver:
    """Answers events by commands until the day's orders are delivered or given up.

    Args:
        bus: takes commands.
        log: is followed.
        organisation_id: whose day it is.
    """

    def __init__(self, bus: Bus, log: Log, organisation_id: UUID) -> None:
        self._bus, self._log = bus, log
        self._sender = Sender("day", organisation_id, "day")
        self._units: dict[str, Decimal] = {}
        self._open: set[str] = set()
        self.told = Told()

    @property
    def open_orders(self) -> int:
        """Orders that are neither delivered nor given up yet."""
        return len(self._open)

    async def place(self, orders: Sequence[PlaceOrder]) -> None:
        """Customers place the day's orders."""
        for order in orders:
            self._units[order.order_id] = sum((one.quantity for one in order.lines), Decimal(0))
        self._open |= self._units.keys()
        await self._send([Keyed(f"place:{one.order_id}", one, one.order_id) for one in orders])

    async def follow(self, position: int) -> int:
        """Answer what the log holds behind ``position`` until nothing is open; how far it came."""
        while self._open:
            events = await self._log.after(position, _READ)
            if not events:
                await asyncio.sleep(0.05)
                continue
            await self._send([keyed for event in events for keyed in self._answer(event)])
            position = events[-1].position
        return position

    def _answer(self, stored: StoredEvent) -> Iterator[Keyed]:
        if catalogue.type_of(stored.topic) not in _ANSWERED:
            return
        event = catalogue.decode(stored.topic, stored.state)
        about = getattr(event, "order_id", None) or getattr(event, "subject_id", "")
        if about not in self._units:  # of the year before
            return
        for verb, command in self._next(event, about):
            # Named by the event that it answers: answered twice, it would be one command.
            yield Keyed(f"{verb}:{stored.event_id}", command, about)

    def _next(self, event: Event, order_id: str) -> Iterator[tuple[str, Command]]:
        random = Random(order_id)
        match event:
            case OrderPlaced():
                asked = event.placed_at + timedelta(minutes=2)
                yield (
                    "ask",
                    RequestDecision(
                        decision_id=f"DEC-{order_id}", subject_id=order_id, requested_at=asked
                    ),
                )
            case DecisionFailed():
                yield "give up", self._cancel(order_id, "no decision")
            case DecisionMade() if event.chosen is None:
                yield "give up", self._cancel(order_id, "no site can send it")
            case DecisionMade():
                yield (
                    "allocate",
                    AllocateOrder(
                        order_id=order_id,
                        site_id=event.option["site_id"],
                        service_level=event.option["service_level"],
                        vehicle_id=event.option.get("vehicle_id"),
                        decision_id=event.decision_id,
                        allocated_at=DAY + timedelta(hours=24),
                    ),
                )
            case OrderAllocated():
                at = DAY + timedelta(hours=24, minutes=1)
                yield "reserve", ReserveOrder(order_id=order_id, reserved_at=at)
            case OrderReserved():
                if random.randrange(100) < CANCEL_PERCENT:
                    yield "cancel", self._cancel(order_id, "changed mind")
                    return
                at = DAY + timedelta(hours=25)
                if event.units == self._units[order_id]:
                    yield "ship", ShipOrder(order_id=order_id, carrier="day-eu", shipped_at=at)
                    return
                yield (
                    "ship a part",
                    ShipPart(
                        order_id=order_id,
                        shipment_id="A",
                        lines=tuple(
                            LineQuantity(line_no=line.line_no, quantity=line.quantity)
                            for line in event.lines
                        ),
                        carrier="day-eu",
                        shipped_at=at,
                    ),
                )
            case OrderBackordered():
                # The rest of the day's goods is not enough: the line waits for tomorrow's truck.
                yield from _truck(event, event.quantity)
            case BackorderFilled() if event.left:
                yield from _truck(event, event.left)  # others were quicker
            case BackorderFilled():
                at = DAY + timedelta(hours=31)
                yield "ship the rest", ShipOrder(order_id=order_id, shipped_at=at)
            case OrderPartShipped():
                at = event.promised_at + timedelta(hours=random.randrange(-40, 8))
                yield (
                    "deliver a part",
                    DeliverShipment(
                        order_id=order_id, shipment_id=event.shipment_id, delivered_at=at
                    ),
                )
            case OrderShipped() if event.parts is None:
                at = DAY + timedelta(hours=random.randrange(40, 120))
                yield "deliver", DeliverOrder(order_id=order_id, delivered_at=at)
            case OrderDelivered():
                self._open.discard(order_id)
                if random.randrange(1000) >= 1000 - 10 * RETURN_PERCENT and event.parts is None:
                    yield (
                        "send back",
                        ReturnOrder(
                            order_id=order_id,
                            return_id="R",
                            lines=(LineQuantity(line_no=1, quantity=Decimal(1)),),
                            reason="too small",
                            site_id=event.site_id,
                            returned_at=DAY + timedelta(days=7),
                        ),
                    )

    def _cancel(self, order_id: str, reason: str) -> CancelOrder:
        self._open.discard(order_id)
        at = DAY + timedelta(hours=26)
        return CancelOrder(order_id=order_id, reason=reason, cancelled_at=at)

    async def _send(self, keyed: Sequence[Keyed]) -> None:
        if not keyed:
            return
        refused: list[Keyed] = []

        def note(one: Keyed, code: str, _: str) -> None:
            refused.append(one)
            self.told.refused[code] = self.told.refused.get(code, 0) + 1

        await send_all(self._bus, keyed, self._sender, total=len(keyed), on_refusal=note)
        names = [type(one.command).__name__ for one in keyed]
        for name in set(names):
            lost = sum(type(one.command).__name__ == name for one in refused)
            stored = self.told.stored.get(name, 0) + names.count(name) - lost
            self.told.stored[name] = stored


def _truck(
    event: OrderBackordered | BackorderFilled, quantity: Decimal
) -> Iterator[tuple[str, Command]]:
    at = DAY + timedelta(hours=30)
    receive = ReceiveStock(site_id=event.site_id, sku=event.sku, quantity=quantity, received_at=at)
    yield "receive", receive
    fill = FillBackorder(order_id=event.order_id, line_no=event.line_no, filled_at=at)
    yield "fill", fill


_ANSWERED = frozenset(
    {
        OrderPlaced,
        DecisionMade,
        DecisionFailed,
        OrderAllocated,
        OrderReserved,
        OrderBackordered,
        BackorderFilled,
        OrderPartShipped,
        OrderShipped,
        OrderDelivered,
    }
)
