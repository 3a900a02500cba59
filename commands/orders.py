"""Orders: which rule answers which command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commands.handler import Handler, Read
from commands.inventory import site_stream
from commands.people import person_read
from commands.transport import vehicle_stream
from domain import decisions, inventory, orders, people, transport
from domain.access import OPERATE
from domain.values import Event


def order_stream(order_id: str) -> str:
    """The stream of an order."""
    return orders.STREAM.format(order_id=order_id)


def _sites(command: orders.AllocateOrder) -> list[str]:
    return list(dict.fromkeys([command.site_id, *(line.site_id for line in command.line_sites)]))


def _sites_and_vehicle(command: orders.AllocateOrder) -> list[Read]:
    reads = [Read(site_stream(site_id), inventory.SITES) for site_id in _sites(command)]
    if command.vehicle_id is not None:
        reads.append(Read(vehicle_stream(command.vehicle_id), transport.VEHICLES))
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
        inventory.must_be_open(site, site_id)
        inventory.must_offer(site, command.service_level)
    if command.vehicle_id is not None:
        transport.must_serve(states[-1], command.vehicle_id, command.site_id, command.service_level)
    return events


def _person(command: orders.PlaceOrder) -> list[Read]:
    return [] if command.recipient is None else [person_read(command.recipient.person_id)]


def _place(
    command: orders.PlaceOrder, _: str, order: orders.Order, *states: people.Person
) -> Sequence[Event]:
    for person in states:
        assert command.recipient is not None
        people.must_not_be_erased(person, command.recipient.person_id)
    return orders.place(order, command)


HANDLERS = (
    Handler(
        command=orders.PlaceOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=_place,
        reads=_person,
        creates=True,
    ),
    Handler(
        command=orders.AllocateOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=_allocate,
        reads=_sites_and_vehicle,
    ),
    Handler(
        command=orders.ShipOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.ship(order, command),
    ),
    Handler(
        command=orders.DeliverOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.deliver(order, command),
    ),
    Handler(
        command=orders.CancelOrder,
        roles=OPERATE,
        stream=lambda command: order_stream(command.order_id),
        decider=orders.ORDERS,
        decide=lambda command, _, order: orders.cancel(order, command),
    ),
)
