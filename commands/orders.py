"""Orders: which rule answers which command.

What touches stock appends to the streams of order and stocks together (docs/adr/0040).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from commands.clients import client_stream
from commands.handler import Handler, Read
from commands.inventory import stock_stream
from commands.people import person_read
from commands.products import product_stream
from commands.route_rules import RULES
from commands.sites import site_stream
from commands.transport import vehicle_stream
from domain import (
    clients,
    decisions,
    inventory,
    order_changes,
    order_delivery,
    orders,
    people,
    products,
    reservations,
    returns,
    route_rules,
    shipments,
    sites,
    transport,
)
from domain.access import OPERATE
from domain.errors import of_field
from domain.order_state import Order
from domain.values import Event

#: The states of what a rule reads, by stream.
States = Mapping[str, Any]


class _OfOrder(Protocol):
    order_id: str


def order_stream(order_id: str) -> str:
    """The stream of an order."""
    return orders.STREAM.format(order_id=order_id)


def _order(command: _OfOrder) -> str:
    return order_stream(command.order_id)


# stock


def _stock_reads(places: Iterable[tuple[str, str]]) -> list[Read]:
    return [Read(stock_stream(site_id, sku), inventory.STOCK, True) for site_id, sku in places]


def stocks_of(order: Order, states: States) -> reservations.Stocks:
    """The stocks of an order's lines, as far as they were read."""
    named = {
        (line.site_id, line.sku): stock_stream(line.site_id, line.sku)
        for line in order.lines
        if line.site_id is not None
    }
    return {place: states[stream] for place, stream in named.items() if stream in states}


def _reserved(command: Any, order: Order) -> list[Read]:
    """The stocks of the lines that have some put aside; where the command names lines, of those."""
    asked = getattr(command, "lines", None)
    numbers = None if asked is None else {line.line_no for line in asked}
    lines = (line for line in order.lines if numbers is None or line.line_no in numbers)
    return _stock_reads(reservations.places_reserved(lines))


def _wanted(_: Any, order: Order) -> list[Read]:
    """The stocks of the lines with something open, and the sites that they are at."""
    places = [place for place in reservations.places_of(order) if place[0]]
    site_ids = dict.fromkeys(site_id for site_id, _ in places)
    at = [Read(site_stream(site_id), sites.SITES) for site_id in site_ids]
    return [*_stock_reads(places), *at]


def _must_be_open(order: Order, states: States) -> None:
    for site_id in dict.fromkeys(site_id for site_id, _ in reservations.places_of(order)):
        if site_id:
            sites.must_be_open(states[site_stream(site_id)], site_id)


def _reserve(
    command: reservations.ReserveOrder, _: str, order: Order, states: States
) -> Sequence[Event]:
    events = reservations.reserve(order, command, stocks_of(order, states))
    _must_be_open(order, states)
    return events


def _fill(
    command: reservations.FillBackorder, _: str, order: Order, states: States
) -> Sequence[Event]:
    events = reservations.fill(order, command, stocks_of(order, states))
    _must_be_open(order, states)
    return events


def _with_stocks(
    rule: Callable[[Order, Any, reservations.Stocks], Sequence[Event]],
) -> Callable[[Any, str, Order, States], Sequence[Event]]:
    """The rule of a command that touches what is put aside for the order."""
    return lambda command, _, order, states: rule(order, command, stocks_of(order, states))


def _vehicle(command: shipments.ShipPart) -> list[Read]:
    if command.vehicle_id is None:
        return []
    return [Read(vehicle_stream(command.vehicle_id), transport.VEHICLES)]


def _ship_part(
    command: shipments.ShipPart, _: str, order: Order, states: States
) -> Sequence[Event]:
    events = shipments.ship_part(order, command, stocks_of(order, states))
    if command.vehicle_id is not None:
        with of_field("vehicle_id"):
            transport.must_be_in_use(states[vehicle_stream(command.vehicle_id)], command.vehicle_id)
    return events


# split and return


def _new_order(command: order_changes.SplitOrder) -> list[Read]:
    return [Read(order_stream(command.new_order_id), orders.ORDERS, True)]


def _split(
    command: order_changes.SplitOrder, _: str, order: Order, states: States
) -> Sequence[Event]:
    new = states[order_stream(command.new_order_id)]
    return order_changes.split(order, command, stocks_of(order, states), new)


def _at_site(command: returns.ReturnOrder) -> list[Read]:
    return [Read(site_stream(command.site_id), sites.SITES)]


def _restocked(command: returns.ReturnOrder, order: Order) -> list[Read]:
    if not command.restock:
        return []
    numbers = {line.line_no for line in command.lines}
    skus = dict.fromkeys(line.sku for line in order.lines if line.line_no in numbers)
    return _stock_reads((command.site_id, sku) for sku in skus)


def _take_back(
    command: returns.ReturnOrder, _: str, order: Order, states: States
) -> Sequence[Event]:
    events = returns.take_back(order, command)
    sites.must_be_open(states[site_stream(command.site_id)], command.site_id)
    return events


# place and allocate


def _sites(command: orders.AllocateOrder) -> list[str]:
    return list(dict.fromkeys([command.site_id, *(line.site_id for line in command.line_sites)]))


def _sites_and_vehicle(command: orders.AllocateOrder) -> list[Read]:
    reads = [Read(site_stream(site_id), sites.SITES) for site_id in _sites(command)]
    if command.vehicle_id is not None:
        reads += [Read(vehicle_stream(command.vehicle_id), transport.VEHICLES), RULES]
    if command.decision_id is not None:
        stream = decisions.STREAM.format(decision_id=command.decision_id)
        reads.append(Read(stream, decisions.DECISIONS))
    return reads


def _allocate(
    command: orders.AllocateOrder, _: str, order: orders.Order, *states: Any
) -> Sequence[Event]:
    events = orders.allocate(order, command)
    site_ids = _sites(command)
    if command.decision_id is not None:
        *states, decision = states  # type: ignore[assignment]
        decisions.must_not_wait(decision)
    for site_id, site in zip(site_ids, states[: len(site_ids)], strict=True):
        sites.must_be_open(site, site_id)
        sites.must_offer(site, command.service_level)
    if command.vehicle_id is not None:
        vehicle, rules = states[-2:]
        transport.must_serve(vehicle, command.vehicle_id, command.site_id, command.service_level)
        chosen = {line.line_no: command.site_id for line in order.lines}
        chosen |= {line.line_no: line.site_id for line in command.line_sites}
        transport.must_hold(vehicle, *orders.load_of(order, command.site_id, chosen))
        stop, day = order.destination, command.allocated_at
        if stop is not None and day is not None:
            # At which hour it will be there is not known yet: tours are planned by that.
            route_rules.must_be_legal(rules, vehicle, None, stop, day, at_any_hour=True)
    return events


def _there(command: order_delivery.ChangeOrder, order: Order) -> list[Read]:
    if command.destination is None or order.vehicle_id is None:
        return []
    return [Read(vehicle_stream(order.vehicle_id), transport.VEHICLES), RULES]


def _change(
    command: order_delivery.ChangeOrder, _: str, order: Order, states: States
) -> Sequence[Event]:
    events = order_delivery.change(order, command)
    stop, day = command.destination, command.changed_at
    if events and stop is not None and day is not None and order.vehicle_id is not None:
        vehicle, rules = states[vehicle_stream(order.vehicle_id)], states[RULES.stream]
        route_rules.must_be_legal(rules, vehicle, None, stop, day, at_any_hour=True)
    return events


def _references(command: orders.PlaceOrder) -> list[Read]:
    reads = [] if command.recipient is None else [person_read(command.recipient.person_id)]
    if command.check_references:
        reads.append(Read(client_stream(command.customer_id), clients.CLIENTS))
        skus = dict.fromkeys(line.sku for line in command.lines)
        reads += [Read(product_stream(sku), products.PRODUCTS) for sku in skus]
    return reads


def _place(
    command: orders.PlaceOrder, _: str, order: orders.Order, *states: Any
) -> Sequence[Event]:
    if command.recipient is not None:
        person, *states = states  # type: ignore[assignment]
        with of_field("recipient.person_id"):
            people.must_not_be_erased(person, command.recipient.person_id)
    if not command.check_references:
        return orders.place(order, command)
    client, *found = states
    known = dict(zip(dict.fromkeys(line.sku for line in command.lines), found, strict=True))
    if order.status is orders.Status.UNKNOWN:  # otherwise it is refused, whatever it names
        with of_field("customer_id"):
            clients.must_be_active(client, command.customer_id)
        for n, line in enumerate(command.lines):
            with of_field(f"lines.{n}.sku"):
                products.must_be_in_range(known[line.sku], line.sku)
    return orders.place(order, command, {sku: one.quantity_step for sku, one in known.items()})


HANDLERS = (
    Handler(
        command=orders.PlaceOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_place,
        reads=_references,
        creates=True,
    ),
    Handler(
        command=orders.AllocateOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_allocate,
        reads=_sites_and_vehicle,
    ),
    Handler(
        command=reservations.ReserveOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_reserve,
        follows=_wanted,
        several=True,
    ),
    Handler(
        command=reservations.ReleaseOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_with_stocks(reservations.release),
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=reservations.FillBackorder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_fill,
        follows=_wanted,
        several=True,
    ),
    Handler(
        command=orders.ShipOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_with_stocks(orders.ship),
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=shipments.ShipPart,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_ship_part,
        reads=_vehicle,
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=orders.DeliverOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.deliver(order, command),
    ),
    Handler(
        command=shipments.DeliverShipment,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.deliver_part(order, command),
    ),
    Handler(
        command=orders.CancelOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_with_stocks(orders.cancel),
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=order_changes.CancelLines,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_with_stocks(order_changes.cancel_lines),
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=order_changes.SplitOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_split,
        reads=_new_order,
        follows=_reserved,
        several=True,
    ),
    Handler(
        command=returns.ReturnOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_take_back,
        reads=_at_site,
        follows=_restocked,
        several=True,
    ),
    Handler(
        command=order_changes.RepromiseOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=lambda command, _, order: order_changes.repromise(order, command),
    ),
    Handler(
        command=order_delivery.ChangeOrder,
        roles=OPERATE,
        stream=_order,
        decider=orders.ORDERS,
        decide=_change,
        follows=_there,
        several=True,
    ),
)
